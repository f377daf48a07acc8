/* Element type of the .inc files included next: float. No include guard: the headers real_*.h take turns. */
#undef REAL
#undef STORED
#undef LOAD
#undef STORE
#undef R
#undef V
#undef HX_RK
#define REAL        float
#define STORED      float
#define LOAD(x)     (x)
#define STORE(x)    (x)
#define R(name)     name##_f32
#define V(name)     name##_f32
#define HX_RK(name) HX_K(name##_f32)
