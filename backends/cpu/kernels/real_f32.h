/* Element type of the .inc files included next: float. No include guard: the two headers take turns. */
#undef REAL
#undef R
#undef HX_RK
#define REAL        float
#define R(name)     name##_f32
#define HX_RK(name) HX_K(name##_f32)
