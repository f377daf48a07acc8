/* A square of 4 x 4 elements, turned: the building block of all that changes rows into columns. */
#ifndef HX_BACKENDS_CPU_TRANSPOSE_H
#define HX_BACKENDS_CPU_TRANSPOSE_H

/* Rows at r, r + step, r + 2 step, r + 3 step become columns of the rows at `to`, to_step apart, in each pointer's elements.
 * @param vec4  a type of 4 elements that may lie anywhere and alias */
#define TRANSPOSE_4(vec4, r, step, to, to_step)                                                              \
    do {                                                                                                     \
        const vec4 r0_ = *(const vec4 *)(r), r1_ = *(const vec4 *)((r) + (step));                            \
        const vec4 r2_ = *(const vec4 *)((r) + 2 * (step)), r3_ = *(const vec4 *)((r) + 3 * (step));         \
        const vec4 lo01_ = __builtin_shufflevector(r0_, r1_, 0, 4, 1, 5), hi01_ = __builtin_shufflevector(r0_, r1_, 2, 6, 3, 7); \
        const vec4 lo23_ = __builtin_shufflevector(r2_, r3_, 0, 4, 1, 5), hi23_ = __builtin_shufflevector(r2_, r3_, 2, 6, 3, 7); \
        *(vec4 *)(to) = __builtin_shufflevector(lo01_, lo23_, 0, 1, 4, 5);                                   \
        *(vec4 *)((to) + (to_step)) = __builtin_shufflevector(lo01_, lo23_, 2, 3, 6, 7);                     \
        *(vec4 *)((to) + 2 * (to_step)) = __builtin_shufflevector(hi01_, hi23_, 0, 1, 4, 5);                 \
        *(vec4 *)((to) + 3 * (to_step)) = __builtin_shufflevector(hi01_, hi23_, 2, 3, 6, 7);                 \
    } while (0)

#endif
