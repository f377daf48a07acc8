#include "backends/backends.h"

#include <stdio.h>
#include <unistd.h>

#include "backends/ref/ref_impl.h"
#include "core/base/mem.h"
#include "core/tensor/host.h"

typedef struct ref_device {
    hx_host host; /* first: the host slots see the device as an hx_host */
} ref_device;

/* What computes an op, and which of its operands hold integers (i32 or i64): bit i input i, bit 8+i output i.
 * All other operands are of a floating type. */
typedef struct ref_op {
    hx__ref_fn run;
    unsigned integers;
    bool takes_any; /* every dtype, in and out */
    hx__ref_fn run_complex; /* on complex operands; NULL: refuses them */
    bool by_parts;          /* on complex operands: runs on the real and on the imaginary parts */
} ref_op;

#define IN(i)  (1u << (i))
#define OUT(i) (1u << (8 + (i)))

static const ref_op ref_ops[HX_OP_COUNT] = {
    [HX_OP_add] = {.run = hx__ref_binary, .by_parts = true},
    [HX_OP_sub] = {.run = hx__ref_binary, .by_parts = true},
    [HX_OP_mul] = {.run = hx__ref_binary, .run_complex = hx__ref_complex},
    [HX_OP_div] = {.run = hx__ref_binary},
    [HX_OP_maximum] = {.run = hx__ref_binary},
    [HX_OP_minimum] = {.run = hx__ref_binary},
    [HX_OP_affine] = {.run = hx__ref_affine, .run_complex = hx__ref_complex},
    [HX_OP_exp] = {.run = hx__ref_unary},
    [HX_OP_log] = {.run = hx__ref_unary},
    [HX_OP_sqrt] = {.run = hx__ref_unary},
    [HX_OP_abs] = {.run = hx__ref_unary},
    [HX_OP_sign] = {.run = hx__ref_unary},
    [HX_OP_tanh] = {.run = hx__ref_unary},
    [HX_OP_sigmoid] = {.run = hx__ref_unary},
    [HX_OP_relu] = {.run = hx__ref_unary},
    [HX_OP_silu] = {.run = hx__ref_unary},
    [HX_OP_gelu_tanh] = {.run = hx__ref_unary},
    [HX_OP_gelu_erf] = {.run = hx__ref_unary},
    [HX_OP_tanh_bwd] = {.run = hx__ref_binary},
    [HX_OP_sigmoid_bwd] = {.run = hx__ref_binary},
    [HX_OP_relu_bwd] = {.run = hx__ref_binary},
    [HX_OP_silu_bwd] = {.run = hx__ref_binary},
    [HX_OP_gelu_tanh_bwd] = {.run = hx__ref_binary},
    [HX_OP_gelu_erf_bwd] = {.run = hx__ref_binary},
    [HX_OP_swiglu] = {.run = hx__ref_swiglu},
    [HX_OP_swiglu_bwd] = {.run = hx__ref_swiglu_bwd},
    [HX_OP_copy] = {.run = hx__ref_copy, .takes_any = true},
    [HX_OP_sum] = {.run = hx__ref_sum, .by_parts = true},
    [HX_OP_sumsq] = {.run = hx__ref_sumsq},
    [HX_OP_softmax] = {.run = hx__ref_softmax},
    [HX_OP_softmax_bwd] = {.run = hx__ref_softmax_bwd},
    [HX_OP_matmul] = {.run = hx__ref_matmul},
    [HX_OP_linear] = {.run = hx__ref_linear},
    /* convolutions, pools and batch norm */
    [HX_OP_conv] = {.run = hx__ref_conv},
    [HX_OP_conv_bwd_x] = {.run = hx__ref_conv_bwd_x},
    [HX_OP_conv_bwd_w] = {.run = hx__ref_conv_bwd_w},
    [HX_OP_max_pool] = {.run = hx__ref_max_pool, .integers = OUT(1)},
    [HX_OP_max_pool_bwd] = {.run = hx__ref_max_pool_bwd, .integers = IN(0)},
    [HX_OP_avg_pool] = {.run = hx__ref_avg_pool},
    [HX_OP_avg_pool_bwd] = {.run = hx__ref_avg_pool_bwd},
    [HX_OP_batchnorm] = {.run = hx__ref_batchnorm},
    [HX_OP_batchnorm_bwd] = {.run = hx__ref_batchnorm_bwd},
    [HX_OP_embedding] = {.run = hx__ref_embedding, .integers = IN(0)},
    [HX_OP_embedding_bwd] = {.run = hx__ref_embedding_bwd, .integers = IN(0)},
    [HX_OP_layernorm] = {.run = hx__ref_layernorm},
    [HX_OP_layernorm_bwd] = {.run = hx__ref_layernorm_bwd},
    [HX_OP_add_layernorm] = {.run = hx__ref_add_layernorm},
    [HX_OP_rmsnorm] = {.run = hx__ref_rmsnorm},
    [HX_OP_rmsnorm_bwd] = {.run = hx__ref_rmsnorm_bwd},
    [HX_OP_add_rmsnorm] = {.run = hx__ref_add_rmsnorm},
    [HX_OP_attention] = {.run = hx__ref_attention, .takes_any = true}, /* bool masks */
    [HX_OP_attention_bwd] = {.run = hx__ref_attention_bwd, .takes_any = true},
    [HX_OP_rope] = {.run = hx__ref_rope},
    [HX_OP_fft] = {.run = hx__ref_fft, .takes_any = true}, /* complex */
    [HX_OP_rfft] = {.run = hx__ref_rfft, .takes_any = true},
    [HX_OP_irfft] = {.run = hx__ref_irfft, .takes_any = true},
    [HX_OP_fftconv] = {.run = hx__ref_fftconv},
    [HX_OP_fftconv_bwd] = {.run = hx__ref_fftconv_bwd},
    [HX_OP_cross_entropy] = {.run = hx__ref_cross_entropy, .integers = IN(1) | OUT(1)},
    [HX_OP_cross_entropy_bwd] = {.run = hx__ref_cross_entropy_bwd, .integers = IN(1)},
    [HX_OP_dropout] = {.run = hx__ref_dropout},
    [HX_OP_random_uniform] = {.run = hx__ref_random},
    [HX_OP_random_normal] = {.run = hx__ref_random},
    /* optimizers */
    [HX_OP_adamw] = {.run = hx__ref_adamw},
    [HX_OP_sgd] = {.run = hx__ref_sgd},
    [HX_OP_rmsprop] = {.run = hx__ref_rmsprop},
    [HX_OP_lion] = {.run = hx__ref_lion},
    [HX_OP_sumabs] = {.run = hx__ref_sumabs},
    [HX_OP_maxabs] = {.run = hx__ref_maxabs},
    [HX_OP_norm_blocks] = {.run = hx__ref_norm_blocks},
    /* elementary functions, comparisons, choice */
    [HX_OP_pow] = {.run = hx__ref_binary},
    [HX_OP_expm1] = {.run = hx__ref_unary},
    [HX_OP_log1p] = {.run = hx__ref_unary},
    [HX_OP_square] = {.run = hx__ref_unary},
    [HX_OP_reciprocal] = {.run = hx__ref_unary},
    [HX_OP_floor] = {.run = hx__ref_unary},
    [HX_OP_ceil] = {.run = hx__ref_unary},
    [HX_OP_round] = {.run = hx__ref_unary},
    [HX_OP_sin] = {.run = hx__ref_unary},
    [HX_OP_cos] = {.run = hx__ref_unary},
    [HX_OP_tan] = {.run = hx__ref_unary},
    [HX_OP_asin] = {.run = hx__ref_unary},
    [HX_OP_acos] = {.run = hx__ref_unary},
    [HX_OP_atan] = {.run = hx__ref_unary},
    [HX_OP_sinh] = {.run = hx__ref_unary},
    [HX_OP_cosh] = {.run = hx__ref_unary},
    [HX_OP_asinh] = {.run = hx__ref_unary},
    [HX_OP_acosh] = {.run = hx__ref_unary},
    [HX_OP_atanh] = {.run = hx__ref_unary},
    [HX_OP_erf] = {.run = hx__ref_unary},
    [HX_OP_softplus] = {.run = hx__ref_unary},
    [HX_OP_conj] = {.run_complex = hx__ref_complex},
    [HX_OP_clamp] = {.run = hx__ref_bounded},
    [HX_OP_leaky_relu] = {.run = hx__ref_bounded},
    [HX_OP_clamp_bwd] = {.run = hx__ref_bounded_bwd},
    [HX_OP_leaky_relu_bwd] = {.run = hx__ref_bounded_bwd},
    [HX_OP_equal] = {.run = hx__ref_compare, .takes_any = true},
    [HX_OP_not_equal] = {.run = hx__ref_compare, .takes_any = true},
    [HX_OP_less] = {.run = hx__ref_compare, .takes_any = true},
    [HX_OP_less_equal] = {.run = hx__ref_compare, .takes_any = true},
    [HX_OP_where] = {.run = hx__ref_where, .takes_any = true},
    /* joining, picking, padding */
    [HX_OP_cat] = {.run = hx__ref_cat, .takes_any = true},
    [HX_OP_gather] = {.run = hx__ref_gather, .takes_any = true},
    [HX_OP_gather_bwd] = {.run = hx__ref_gather_bwd, .integers = IN(0), .by_parts = true},
    [HX_OP_pad] = {.run = hx__ref_pad, .takes_any = true},
    [HX_OP_pad_bwd] = {.run = hx__ref_pad_bwd, .by_parts = true},
    /* reductions */
    [HX_OP_log_softmax] = {.run = hx__ref_softmax},
    [HX_OP_log_softmax_bwd] = {.run = hx__ref_log_softmax_bwd},
    [HX_OP_max] = {.run = hx__ref_stat},
    [HX_OP_min] = {.run = hx__ref_stat},
    [HX_OP_var] = {.run = hx__ref_stat},
    [HX_OP_pnorm] = {.run = hx__ref_stat},
    [HX_OP_argmax] = {.run = hx__ref_arg, .takes_any = true},
    [HX_OP_argmin] = {.run = hx__ref_arg, .takes_any = true},
    [HX_OP_topk] = {.run = hx__ref_topk, .integers = OUT(1)},
    [HX_OP_random_bernoulli] = {.run = hx__ref_random},
};

static bool takes_complex(const ref_op *op) { return op->run_complex || op->by_parts; }

static hx_status check_operand(const hx_op_call *call, const hx_array *a, bool is_integer, const char *side,
                               int i) {
    if (!hx__ref_has(a)) return HX_OK;
    if (!is_integer && hx_dtype_is_complex(a->dtype) && takes_complex(&ref_ops[call->op])) return HX_OK;
    bool fits = is_integer ? a->dtype == HX_I32 || a->dtype == HX_I64
                           : hx_dtype_is_float(a->dtype) && ref_ops[call->op].run;
    if (fits) return HX_OK;
    return HX_FAIL(HX_ERR_UNSUPPORTED, "%s on ref: %s %d is %s; there is a kernel for %s",
                   hx_op_info_get(call->op)->name, side, i, hx_dtype_name(a->dtype),
                   is_integer ? "i32 and i64" : "floating types");
}

/* Asked before anything is enqueued, so that an asynchronous stream refuses a call as early as an inline one.
 */
static hx_status check(hx_host *host, const hx_op_call *call) {
    (void)host;
    if ((unsigned)call->op >= HX_OP_COUNT || (!ref_ops[call->op].run && !ref_ops[call->op].run_complex))
        return HX_FAIL(HX_ERR_UNSUPPORTED, "op %d on ref: there is no kernel", (int)call->op);
    const ref_op *op = &ref_ops[call->op];
    for (int i = 0; i < call->n_in && !op->takes_any; i++)
        HX_TRY(check_operand(call, &call->in[i], op->integers & IN(i), "input", i));
    for (int i = 0; i < call->n_out && !op->takes_any; i++)
        HX_TRY(check_operand(call, &call->out[i], op->integers & OUT(i), "output", i));
    return HX_OK;
}

static hx_status run(hx_host *host, const hx_op_call *call) {
    (void)host;
    const ref_op *op = &ref_ops[call->op];
    bool is_complex = takes_complex(op) && call->n_out > 0 && hx_dtype_is_complex(call->out[0].dtype);
    if (is_complex && op->by_parts) return hx__ref_by_parts(call, op->run);
    return is_complex ? op->run_complex(call) : op->run(call);
}

static hx_status ref_open(const hx_device_config *config, void **self) {
    if (config->index != 0)
        return HX_FAIL(HX_ERR_DEVICE, "ref device %d: there is one, number 0", config->index);
    ref_device *device;
    HX_TRY(hx_mem_alloc_array(1, sizeof *device, (void **)&device));
    hx_status status = HX_OK;
    HX_TRY_GOTO(hx_host_init(&device->host, check, run), done);
    *self = device;
    device = NULL;
done:
    hx_mem_free((void **)&device);
    return status;
}

static void ref_close(void *self) { hx_mem_free(&self); }

static void ref_props(void *self, hx_device_props *out) {
    (void)self;
    long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGE_SIZE);
    *out = (hx_device_props){.n_threads = 1, .is_host_memory = true};
    snprintf(out->name, sizeof out->name, "ref: plain loops in float64, one thread");
    snprintf(out->kernels, sizeof out->kernels, "ref");
    if (n_pages > 0 && page_bytes > 0) out->memory_bytes = (int64_t)n_pages * page_bytes;
}

const hx_backend hx_backend_ref = {.name = "ref",
                                   .priority = 0,
                                   .open = ref_open,
                                   .close = ref_close,
                                   .props = ref_props,
                                   HX_HOST_BACKEND_SLOTS};
