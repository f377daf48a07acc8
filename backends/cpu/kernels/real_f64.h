/* Element type of the .inc files included next: double. No include guard: the two headers take turns. */
#undef REAL
#undef R
#undef HX_RK
#define REAL        double
#define R(name)     name##_f64
#define HX_RK(name) HX_K(name##_f64)
