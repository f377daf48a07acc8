/* Every combination of parallel training against one process: data and tensor parallelism, sequence parallelism, stages of ZeRO,
 * accumulation and dtypes, by the calls that a user's program makes. A row per combination: how far loss, gradient norm and final
 * parameters are from those of one process that takes the whole batch at once. What fails is printed as the command that
 * repeats it.
 *
 *     mpirun -n 4 mpi_matrix [--full]      // the cases of 4 ranks; HELIX_TEST_FULL=1 is --full
 *
 * Tolerances. Ranks and micro-batches group the sums over samples otherwise, and cut products those over elements, while losses
 * and norms are added up in f64. f64 differs by some roundings of 1e-16, of which ten steps of AdamW make 1e-13 in the
 * parameters: the limit is 1e-9. f32 begins a few roundings of 6e-8 apart, of which the mean over 768 targets leaves 1e-9, and
 * ends within 1e-8: the limits are 1e-6 and 1e-5, for norms 1e-4. bf16 rounds a cut product twice to 8 bits: 2e-6 in the
 * first loss, 2e-5 after ten steps; the limits are 2e-5 and 2e-4. Its parameters are a unit in the last place, 8e-3, apart. */
#define _GNU_SOURCE
#include <ftw.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "tests/mpi/matrix.h"

enum { STEPS = 10, BATCH = 48 }; /* samples: 8 ranks' two micro-batches have equally many */

/* Largest relative differences. */
typedef struct limits {
    double first_loss, loss, norm, params;
} limits;
static const limits allowed[MATRIX_N_DTYPES] = {{1e-9, 1e-9, 1e-9, 1e-9}, {1e-6, 1e-5, 1e-4, 1e-2}, {2e-5, 2e-4, 2e-3, 5e-2}};

/* What a run gave. */
typedef struct outcome {
    int n_steps;
    double loss[STEPS], norm[STEPS];
} outcome;

/* One process's, on all ranks. */
typedef struct reference {
    bool is_known;
    outcome run;
    int64_t n_elems;
    double *params; /* owned [n_elems]: logical tensors one after another, in order of registration */
} reference;

typedef struct matrix {
    hx_comm *world;
    char folder[256]; /* of the text and of runs */
    reference references[MATRIX_N_DTYPES];
    int n_run, n_failed;
} matrix;

/* ---- configurations ---- */

static hx_status set_by_name(hx_config *config, const char *key, const char *value) {
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    const int n = hx_config_sections(config, sections);
    return hx_options_set(sections, n, key, value, "matrix");
}

/* By name: the option is not in every version. */
static hx_status config_of(const matrix *m, const matrix_case *c, hx_config *out) {
    *out = (hx_config)HX_CONFIG_DEFAULT;
    out->model.ctx = 16, out->model.layers = 2, out->model.dim = 24, out->model.heads = 4, out->model.dropout = 0.1;
    out->train.steps = STEPS, out->train.batch = BATCH, out->train.micro_batch = BATCH / c->dp / c->n_micro;
    out->train.eval_every = -1, out->train.log_every = 1, out->train.seed = 42;
    out->data.holdout = 0;
    out->optim.lr = 3e-3, out->optim.warmup = 2, out->optim.clip = 0.5;
    out->mesh.dp = c->dp, out->mesh.tp = c->tp;
    out->ddp.bucket_bytes = 20000, out->ddp.zero = c->zero; /* five to ten buckets */
    out->ckpt.every = -1;
    out->run.threads = 1;
    snprintf(out->data.path, sizeof out->data.path, "%s/corpus.txt", m->folder);
    snprintf(out->run.out, sizeof out->run.out, "%s/run", m->folder);
    HX_TRY(set_by_name(out, "progress", "lines"));
    HX_TRY(set_by_name(out, "device", "cpu"));
    HX_TRY(set_by_name(out, "model.dtype", matrix_dtypes[c->dtype]));
    return c->sequence ? set_by_name(out, "mesh.sequence", "true") : HX_OK;
}

/* Options that are not the default, as arguments. */
static void print_command(const matrix_case *c, hx_config *config) {
    hx_option_section sections[HX_CONFIG_MAX_SECTIONS];
    const int n = hx_config_sections(config, sections);
    printf("    mpirun --oversubscribe -n %d helix train", c->dp * c->tp);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < sections[i].n_options; k++) {
            const hx_option *o = &sections[i].options[k];
            char key[128], value[HX_OPTION_TEXT], usual[HX_OPTION_TEXT];
            hx_option_key(&sections[i], o, key, sizeof key);
            hx_option_format(o, sections[i].config, value, sizeof value);
            hx_option_format(o, sections[i].defaults, usual, sizeof usual);
            if (strcmp(value, usual) != 0) printf(" --%s=%s", key, value);
        }
    printf("\n");
}

/* ---- folders ---- */

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind, (void)place;
    return remove(path);
}

static void remove_tree(const char *path) { (void)nftw(path, remove_entry, 16, FTW_DEPTH | FTW_PHYS); }

static hx_status make_folder(char folder[256]) {
    const char *parent = getenv("TMPDIR");
    char path[300];
    snprintf(folder, 256, "%s/helix-matrix-XXXXXX", parent != NULL ? parent : "/tmp");
    if (mkdtemp(folder) == NULL) return HX_FAIL(HX_ERR_IO, "no folder %s", folder);
    snprintf(path, sizeof path, "%s/corpus.txt", folder);
    FILE *f = fopen(path, "w");
    if (f == NULL) return HX_FAIL(HX_ERR_IO, "no file %s", path);
    for (int i = 0; i < 300; i++) fprintf(f, "Verse %d: and it was so, %d times over.\n", i, i * 37 % 101);
    return fclose(f) == 0 ? HX_OK : HX_FAIL(HX_ERR_IO, "%s was not written", path);
}

/* ---- parameters ---- */

/* Place in a whole tensor, row-major, of element i of a box. */
static int64_t place_of(const hx_layout *layout, const hx_box *box, int64_t i) {
    int64_t place = 0, stride = 1;
    for (int k = layout->shape.ndim - 1; k >= 0; k--) {
        place += (box->start[k] + i % box->extent[k]) * stride;
        i /= box->extent[k];
        stride *= layout->shape.dims[k];
    }
    return place;
}

/* |here - whole| / |whole| over what this rank holds. @param whole  row-major */
static double distance(const double *here, const hx_layout *layout, const double *whole) {
    double d = 0, n = 0;
    for (int b = 0; b < layout->n_boxes; b++)
        for (int64_t i = 0; i < hx_box_count(&layout->boxes[b], layout->shape.ndim); i++) {
            const double want = whole[place_of(layout, &layout->boxes[b], i)], got = here[layout->boxes[b].local + i];
            d += (got - want) * (got - want);
            n += want * want;
        }
    return sqrt(d) / fmax(sqrt(n), 1e-30);
}

static void store(const double *here, const hx_layout *layout, double *whole) {
    for (int b = 0; b < layout->n_boxes; b++)
        for (int64_t i = 0; i < hx_box_count(&layout->boxes[b], layout->shape.ndim); i++)
            whole[place_of(layout, &layout->boxes[b], i)] = here[layout->boxes[b].local + i];
}

/* NaN is as far as can be. */
static double farther(double a, double b) { return isnan(a) || isnan(b) ? INFINITY : fmax(a, b); }

/* A parameter's storage as f64; free it. */
static hx_status read_wide(hx_session *s, const hx_param *param, double **out) {
    hx_ctx ctx = *hx_session_ctx(s);
    HX_AUTO_TENSOR wide = NULL;
    ctx.tape = NULL;
    HX_TRY(hx_cast(&ctx, param->value, HX_F64, &wide));
    HX_TRY(hx_mem_alloc_array(hx_tensor_count(wide) + 1, sizeof **out, (void **)out));
    hx_status status = hx_tensor_read(ctx.stream, wide, *out);
    if (status != HX_OK) hx_mem_free((void **)out);
    return status;
}

static int64_t count_logical(const hx_param_list *params) {
    char path[HX_NAME_BYTES];
    const hx_layout *layout;
    int64_t n = 0;
    for (int64_t i = 0; i < params->n_items; i++)
        for (int k = 0; k < hx_param_n_logical(params->items[i]); k++) {
            hx_param_logical(params->items[i], k, path, &layout);
            n += hx_shape_count(&layout->shape);
        }
    return n;
}

/* Of one parameter. @param worst  NULL: the values are stored in `whole`, else they are compared with it. Key biases have a gradient
 * of 0 but for rounding, which AdamW blows up: they are left out. Moves *whole on. */
static hx_status pass_param(hx_session *s, const hx_param *param, double **whole, double *worst) {
    double *here;
    HX_TRY(read_wide(s, param, &here));
    for (int k = 0; k < hx_param_n_logical(param); k++) {
        char path[HX_NAME_BYTES];
        const hx_layout *layout;
        hx_param_logical(param, k, path, &layout);
        if (worst == NULL) store(here, layout, *whole);
        else if (strstr(path, "k.bias") == NULL) *worst = farther(*worst, distance(here, layout, *whole));
        *whole += hx_shape_count(&layout->shape);
    }
    hx_mem_free((void **)&here);
    return HX_OK;
}

static hx_status pass_params(hx_session *s, hx_layer *root, reference *r, double *worst) {
    hx_param_list params = {0};
    hx_status status = HX_OK;
    HX_TRY(hx_layer_params(root, &params));
    const int64_t n = count_logical(&params);
    if (worst == NULL) {
        HX_TRY_GOTO(hx_mem_alloc_array(n, sizeof *r->params, (void **)&r->params), done);
        r->n_elems = n;
    }
    if (n != r->n_elems) {
        status = HX_FAIL(HX_ERR_MISMATCH, "the model has %lld elements, in one process %lld", (long long)n, (long long)r->n_elems);
        goto done;
    }
    double *whole = r->params;
    for (int64_t i = 0; i < params.n_items; i++) HX_TRY_GOTO(pass_param(s, params.items[i], &whole, worst), done);
done:
    hx_param_list_destroy(&params);
    return status;
}

/* ---- runs ---- */

static hx_status on_event(void *self, const hx_train_event *event) {
    outcome *run = self;
    if (event->kind != HX_EVENT_STEP || run->n_steps == STEPS) return HX_OK;
    run->loss[run->n_steps] = event->loss;
    run->norm[run->n_steps++] = event->grad_norm;
    return HX_OK;
}

/* Train, and store or compare (worst) parameters. */
static hx_status train(const hx_config *config, hx_comm *comm, outcome *run, reference *r, double *worst) {
    hx_config quiet = *config;
    hx_session *s = NULL;
    hx_model model = {0};
    hx_status status = HX_OK;
    const hx_train_parts parts = {.on_event = on_event, .on_event_self = run};
    HX_TRY(set_by_name(&quiet, "progress", "none"));
    HX_TRY(hx_session_open_on(&quiet, comm, &s));
    HX_TRY_GOTO(hx_session_gpt(s, &model), done);
    HX_TRY_GOTO(hx_session_train(s, &model, &parts), done);
    HX_TRY_GOTO(hx_comm_agree(comm, pass_params(s, model.root, r, worst)), done);
    if (run->n_steps != STEPS) status = HX_FAIL(HX_ERR_STATE, "%d steps were reported: expected %d", run->n_steps, STEPS);
done:
    hx_layer_destroy(&model.root);
    hx_session_close(&s);
    return status;
}

/* Local, on rank 0. */
static hx_status run_alone(const matrix *m, int dtype, reference *r) {
    const matrix_case alone = {.dp = 1, .tp = 1, .n_micro = 1, .dtype = dtype};
    hx_config config;
    hx_comm *self;
    HX_TRY(config_of(m, &alone, &config));
    HX_TRY(hx_comm_self_open(&self));
    hx_status status = train(&config, self, &r->run, r, NULL);
    hx_comm_close(&self);
    if (status == HX_OK && !(r->run.norm[0] > config.optim.clip))
        status = HX_FAIL(HX_ERR_STATE, "the gradient norm begins at %g: expected more than %g, so that it is clipped", r->run.norm[0],
                         config.optim.clip);
    remove_tree(config.run.out);
    return status;
}

/* Collective. One process's run, made on rank 0 and told to all. */
static hx_status prepare_reference(matrix *m, int dtype) {
    reference *r = &m->references[dtype];
    const bool is_first = hx_comm_rank(m->world) == 0;
    hx_status status = HX_OK;
    if (r->is_known) return HX_OK;
    HX_TRY(hx_comm_agree(m->world, is_first ? run_alone(m, dtype, r) : HX_OK));
    HX_TRY(hx_comm_broadcast(m->world, &r->n_elems, 1, HX_I64, 0, NULL, NULL));
    if (!is_first) status = hx_mem_alloc_array(r->n_elems, sizeof *r->params, (void **)&r->params);
    HX_TRY(hx_comm_agree(m->world, status));
    HX_TRY(hx_comm_broadcast(m->world, r->params, r->n_elems, HX_F64, 0, NULL, NULL));
    HX_TRY(hx_comm_broadcast(m->world, r->run.loss, STEPS, HX_F64, 0, NULL, NULL));
    HX_TRY(hx_comm_broadcast(m->world, r->run.norm, STEPS, HX_F64, 0, NULL, NULL));
    r->is_known = true;
    return HX_OK;
}

/* ---- verdicts ---- */

static double relative(double got, double want) { return fabs(got - want) / fabs(want); }

/* Collective. The worst over steps and ranks. @param out  in: params, of this rank */
static hx_status find_worst(hx_comm *world, const outcome *run, const outcome *want, limits *out) {
    out->first_loss = farther(0, relative(run->loss[0], want->loss[0]));
    for (int i = 0; i < STEPS; i++) {
        out->loss = farther(out->loss, relative(run->loss[i], want->loss[i]));
        out->norm = farther(out->norm, relative(run->norm[i], want->norm[i]));
    }
    double all[4] = {out->first_loss, out->loss, out->norm, out->params};
    HX_TRY(hx_comm_all_reduce(world, all, 4, HX_F64, HX_MAX, NULL, NULL));
    *out = (limits){all[0], all[1], all[2], all[3]};
    return HX_OK;
}

static bool is_within(const limits *x, const limits *most) {
    return x->first_loss <= most->first_loss && x->loss <= most->loss && x->norm <= most->norm && x->params <= most->params;
}

static void print_row(const matrix_case *c, const limits *x, hx_status status, bool is_ok) {
    printf("%2d %2d %8s %4d %5d %5s", c->dp, c->tp, c->sequence ? "on" : "off", c->zero, c->n_micro, matrix_dtypes[c->dtype]);
    if (status == HX_OK) printf("  %10.1e %9.1e %9.1e %9.1e  %s\n", x->first_loss, x->loss, x->norm, x->params, is_ok ? "ok" : "FAIL");
    else printf("  FAIL: %s\n", hx_error_message());
}

/* Collective. @return a failure of the communicator, after which nothing can be run any more */
static hx_status run_case(matrix *m, const matrix_case *c) {
    limits worst = {0};
    outcome run = {0};
    hx_config config;
    HX_TRY(prepare_reference(m, c->dtype));
    HX_TRY(config_of(m, c, &config));
    reference *r = &m->references[c->dtype];
    hx_status status = train(&config, m->world, &run, r, &worst.params);
    if (status == HX_OK) status = find_worst(m->world, &run, &r->run, &worst);
    const bool is_ok = status == HX_OK && is_within(&worst, &allowed[c->dtype]);
    m->n_run++;
    m->n_failed += !is_ok;
    if (hx_comm_rank(m->world) == 0) {
        print_row(c, &worst, status, is_ok);
        if (!is_ok) print_command(c, &config);
        fflush(stdout);
        remove_tree(config.run.out);
    }
    return hx_comm_failure(m->world);
}

static hx_status run_all(matrix *m, bool is_full) {
    static matrix_case cases[MATRIX_MAX_CASES];
    const int n = matrix_cases(is_full, cases), rank = hx_comm_rank(m->world), size = hx_comm_size(m->world);
    HX_TRY(hx_comm_agree(m->world, rank == 0 ? make_folder(m->folder) : HX_OK));
    HX_TRY(hx_comm_broadcast(m->world, m->folder, sizeof m->folder, HX_U8, 0, NULL, NULL));
    if (rank == 0) printf("dp tp sequence zero micro dtype  first loss      loss      norm    params\n");
    for (int i = 0; i < n; i++)
        if (cases[i].dp * cases[i].tp == size) HX_TRY(run_case(m, &cases[i]));
    return HX_OK;
}

int main(int argc, char **argv) {
    const bool is_full = getenv("HELIX_TEST_FULL") != NULL || (argc > 1 && strcmp(argv[1], "--full") == 0);
    matrix m = {0};
    const time_t began = time(NULL);
    hx_status status = hx_comm_mpi_open(&m.world);
    if (status == HX_OK) status = run_all(&m, is_full);
    if (status != HX_OK) fprintf(stderr, "%s\n", hx_error_message());
    const bool is_good = status == HX_OK && m.n_failed == 0;
    if (m.world != NULL && hx_comm_rank(m.world) == 0) {
        printf("%d combinations, %d failed, %lld s\n", m.n_run, m.n_failed, (long long)(time(NULL) - began));
        if (is_good) remove_tree(m.folder);
        else printf("kept: %s\n", m.folder);
    }
    for (int i = 0; i < MATRIX_N_DTYPES; i++) hx_mem_free((void **)&m.references[i].params);
    hx_comm_close(&m.world);
    return is_good ? 0 : 1;
}
