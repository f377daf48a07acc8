/* Element type of the .inc files included next: float. No include guard: the headers real_*.h take turns. */
#include "backends/cpu/kernels/real_none.h"
#define REAL        float
#define STORED      float
#define LOAD(x)     (x)
#define STORE(x)    (x)
#define R(name)     name##_f32
#define V(name)     name##_f32
#define HX_RK(name) HX_K(name##_f32)
