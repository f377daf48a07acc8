/* The table of this instruction set's kernels. */
#include "backends/cpu/kernels/kernels.h"

#define STRING__(x) #x
#define STRING_(x)  STRING__(x)

#define IN(i)  (i)
#define OUT(i) (8 + (i))
#define BIT(i) (1u << (i))
/* dtype of operand `by` chooses; DENSE kernels get dense operands only */
#define ROW(op, kernel, by, dense) [HX_OP_##op] = {HX_K(kernel##_f32), HX_K(kernel##_f64), by, dense}
#define MAP(op)                    [HX_OP_##op] = {HX_K(elementwise_f32), HX_K(elementwise_f64), IN(0), false, true}
#define DENSE(op, by)              ROW(op, op, by, true)
/* of a parameter, which output q gets rounded */
#define UPDATE(op, q)              [HX_OP_##op] = {HX_K(op##_f32), HX_K(op##_f64), OUT(0), true, .half_out = 1u << (q)}
/* with a kernel for integers, bool or complex besides */
#define ROW_TOO(op, kernel, by, dense, other)                                                                \
    [HX_OP_##op] = {HX_K(kernel##_f32), HX_K(kernel##_f64), by, dense, false, other}
/* besides: for bf16 as it is stored in the operands of one mask, and bf16 or f32 in those of the other */
#define BF16(kernel, stored_, given) .bf16 = HX_K(kernel##_bf16), .stored = stored_, .as_given = given
#define DENSE_BF16(op, by, stored)                                                                            \
    [HX_OP_##op] = {HX_K(op##_f32), HX_K(op##_f64), by, true, BF16(op, stored, 0)}
#define MAP_TOO(op, other) [HX_OP_##op] = {HX_K(elementwise_f32), HX_K(elementwise_f64), IN(0), false, true, other}
/* elements of every dtype, as they are stored */
#define MOVE(op, dense)    [HX_OP_##op] = {HX_K(op), NULL, -1, dense, true}

const hx_cpu_kernels HX_K(kernels) = {
    .isa = STRING_(HX_ISA),
    .probe = &HX_K(probe),
    .op =
        {
            MAP_TOO(add, HX_K(complex)), MAP_TOO(sub, HX_K(complex)), MAP_TOO(mul, HX_K(complex)),
            MAP(div), MAP(maximum), MAP(minimum),
            MAP_TOO(affine, HX_K(complex)), MAP(exp), MAP(log), MAP(sqrt), MAP(abs), MAP(sign), MAP(tanh), MAP(sigmoid), MAP(relu),
            MAP(silu), MAP(gelu_tanh), MAP(gelu_erf),
            MAP(tanh_bwd), MAP(sigmoid_bwd), MAP(relu_bwd), MAP(silu_bwd), MAP(gelu_tanh_bwd), MAP(gelu_erf_bwd),
            [HX_OP_swiglu] = {HX_K(swiglu_f32), HX_K(swiglu_f64), IN(0), false, true},
            [HX_OP_swiglu_bwd] = {HX_K(swiglu_bwd_f32), HX_K(swiglu_bwd_f64), IN(0), false, true},
            [HX_OP_copy] = {HX_K(copy), NULL, -1, false, true},
            [HX_OP_sum] = {HX_K(sum_f32), HX_K(sum_f64), IN(0), false, false, hx__cpu_by_parts, BF16(sum, BIT(IN(0)), 0)},
            DENSE_BF16(sumsq, IN(0), BIT(IN(0))),
            DENSE(softmax, IN(0)),
            DENSE(softmax_bwd, IN(0)),
            [HX_OP_matmul] = {HX_K(matmul_f32), HX_K(matmul_f64), IN(0), false, BF16(matmul, 1 | 2, 1 << OUT(0))},
            [HX_OP_linear] = {HX_K(linear_f32), HX_K(linear_f64), IN(0), false, BF16(linear, 1 | 2 | 4, 1 << OUT(0))},
            DENSE_BF16(embedding, IN(1), BIT(IN(1)) | BIT(OUT(0))),
            DENSE_BF16(embedding_bwd, IN(1), BIT(IN(1))),
            DENSE_BF16(layernorm, IN(0), BIT(IN(0)) | BIT(IN(1)) | BIT(IN(2)) | BIT(OUT(0))),
            DENSE_BF16(layernorm_bwd, IN(0), BIT(IN(0)) | BIT(IN(1)) | BIT(IN(4)) | BIT(IN(5)) | BIT(OUT(0))),
            DENSE_BF16(rmsnorm, IN(0), BIT(IN(0)) | BIT(IN(1)) | BIT(OUT(0))),
            DENSE_BF16(rmsnorm_bwd, IN(0), BIT(IN(0)) | BIT(IN(1)) | BIT(IN(3)) | BIT(IN(4)) | BIT(OUT(0))),
            [HX_OP_add_layernorm] = {HX_K(add_layernorm_f32), HX_K(add_layernorm_f64), IN(0), true, true,
                                     BF16(add_layernorm, BIT(IN(0)) | BIT(IN(1)) | BIT(IN(2)) | BIT(IN(3)) | BIT(OUT(0)) | BIT(OUT(3)), 0)},
            [HX_OP_add_rmsnorm] = {HX_K(add_rmsnorm_f32), HX_K(add_rmsnorm_f64), IN(0), true, true,
                                   BF16(add_rmsnorm, BIT(IN(0)) | BIT(IN(1)) | BIT(IN(2)) | BIT(OUT(0)) | BIT(OUT(2)), 0)},
            [HX_OP_attention] = {HX_K(attention_f32), HX_K(attention_f64), IN(0), false, BF16(attention, 1 | 2 | 4 | 1 << OUT(0), 0)},
            [HX_OP_attention_bwd] = {HX_K(attention_bwd_f32), HX_K(attention_bwd_f64), IN(0), false,
                                     BF16(attention_bwd, 1 | 2 | 4 | 8 | 32 | 7 << OUT(0), 0)},
            [HX_OP_rope] = {HX_K(rope_f32), HX_K(rope_f64), IN(0), false, BF16(rope, 1 | 1 << OUT(0), 0)},
            [HX_OP_fft] = {hx__cpu_fft, NULL, -1, false},
            [HX_OP_rfft] = {hx__cpu_fft, NULL, -1, false},
            [HX_OP_irfft] = {hx__cpu_fft, NULL, -1, false},
            DENSE(fftconv, IN(0)),
            DENSE(fftconv_bwd, IN(0)),
            DENSE_BF16(cross_entropy, IN(0), BIT(IN(0))),
            DENSE_BF16(cross_entropy_bwd, IN(0), BIT(IN(0)) | BIT(OUT(0))),
            DENSE(dropout, IN(0)),
            [HX_OP_random_uniform] = {hx__cpu_random, hx__cpu_random, OUT(0), true},
            [HX_OP_random_normal] = {hx__cpu_random, hx__cpu_random, OUT(0), true},
            /* optimizers */
            UPDATE(adamw, 3), UPDATE(sgd, 2), UPDATE(rmsprop, 4), UPDATE(lion, 2),
            DENSE(sumabs, IN(0)), DENSE(maxabs, IN(0)), DENSE(norm_blocks, IN(0)),
            /* convolutions, pools and batch norm */
            DENSE_BF16(conv, IN(0), BIT(IN(0)) | BIT(IN(1)) | BIT(IN(2)) | BIT(OUT(0))),
            DENSE_BF16(conv_bwd_x, IN(0), BIT(IN(0)) | BIT(IN(1)) | BIT(OUT(0))),
            [HX_OP_conv_bwd_w] = {HX_K(conv_bwd_w_f32), HX_K(conv_bwd_w_f64), IN(0), true, BF16(conv_bwd_w, 1 | 2, 1 << OUT(0))},
            DENSE_BF16(max_pool, IN(0), BIT(IN(0)) | BIT(OUT(0))),
            DENSE_BF16(max_pool_bwd, IN(1), BIT(IN(1)) | BIT(OUT(0))),
            DENSE_BF16(avg_pool, IN(0), BIT(IN(0)) | BIT(OUT(0))),
            DENSE_BF16(avg_pool_bwd, IN(0), BIT(IN(0)) | BIT(OUT(0))),
            DENSE(batchnorm, IN(0)),
            DENSE(batchnorm_bwd, IN(0)),
            /* elementary functions, comparisons, choice */
            MAP(pow), MAP(expm1), MAP(log1p), MAP(square), MAP(reciprocal), MAP(floor), MAP(ceil), MAP(round), MAP(sin),
            MAP(cos), MAP(tan), MAP(asin), MAP(acos), MAP(atan), MAP(sinh), MAP(cosh), MAP(asinh), MAP(acosh), MAP(atanh),
            MAP(erf), MAP(softplus), MAP(clamp), MAP(leaky_relu), MAP(clamp_bwd), MAP(leaky_relu_bwd),
            [HX_OP_conj] = {NULL, NULL, IN(0), false, false, HX_K(complex)},
            MAP_TOO(equal, HX_K(compare_int)), MAP_TOO(not_equal, HX_K(compare_int)),
            MAP_TOO(less, HX_K(compare_int)), MAP_TOO(less_equal, HX_K(compare_int)),
            MOVE(where, false),
            /* joining, picking, padding */
            MOVE(cat, false),
            MOVE(gather, true),
            ROW_TOO(gather_bwd, gather_bwd, IN(1), true, hx__cpu_by_parts),
            MOVE(pad, true),
            ROW_TOO(pad_bwd, pad_bwd, IN(0), true, hx__cpu_by_parts),
            /* reductions */
            DENSE(log_softmax, IN(0)),
            DENSE(log_softmax_bwd, IN(0)),
            ROW(max, stat, IN(0), false),
            ROW(min, stat, IN(0), false),
            ROW(var, stat, IN(0), false),
            ROW(pnorm, stat, IN(0), false),
            ROW_TOO(argmax, arg, IN(0), true, HX_K(arg_int)),
            ROW_TOO(argmin, arg, IN(0), true, HX_K(arg_int)),
            DENSE(topk, IN(0)),
            [HX_OP_random_bernoulli] = {hx__cpu_random, hx__cpu_random, OUT(0), true},
        },
};
