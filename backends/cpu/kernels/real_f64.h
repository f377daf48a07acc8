/* Element type of the .inc files included next: double. No include guard: the headers real_*.h take turns. */
#include "backends/cpu/kernels/real_none.h"
#define REAL        double
#define STORED      double
#define LOAD(x)     (x)
#define STORE(x)    (x)
#define R(name)     name##_f64
#define V(name)     name##_f64
#define HX_RK(name) HX_K(name##_f64)
