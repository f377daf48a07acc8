/* No element type: what the headers real_*.h begin with, which take turns and so have no include guard. */
#undef REAL
#undef STORED
#undef LOAD
#undef STORE
#undef R
#undef V
#undef HX_RK
