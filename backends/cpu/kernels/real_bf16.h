/* Element type of the .inc files included next: bf16 in memory, float in registers. No include guard: the headers real_*.h take turns. */
#include "backends/cpu/kernels/real_none.h"
#define REAL        float
#define STORED      uint16_t
#define LOAD(x)     hx__bf16_value(x)
#define STORE(x)    hx__bf16_bits(x) /* to nearest even */
#define R(name)     name##_bf16
#define V(name)     name##_f32
#define HX_RK(name) HX_K(name##_bf16)
