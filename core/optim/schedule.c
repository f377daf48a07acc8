#include "core/optim/schedule.h"
#include <math.h>
#include "core/optim/optim_impl.h"

#define HX_PI 3.141592653589793

/* ---- schedules from parts ---- */

static bool is_factor(double x) { return x >= 0 && isfinite(x); }

static hx_status check(const hx_schedule *s);

static hx_status check_parts(const hx_schedule *s) {
    if (s->n_parts < 1 || s->parts == NULL)
        return HX_FAIL(HX_ERR_CONFIG, "a schedule of %d parts: expected at least 1", s->n_parts);
    for (int i = 0; i < s->n_parts; i++) {
        if (s->kind == HX_SCHEDULE_SEQUENCE && i + 1 < s->n_parts && s->parts[i].length < 1)
            return HX_FAIL(HX_ERR_CONFIG, "part %d of a schedule has %lld updates: expected at least 1", i,
                           (long long)s->parts[i].length);
        HX_TRY(check(s->parts[i].schedule));
    }
    return HX_OK;
}

static hx_status check(const hx_schedule *s) {
    static const struct {
        const char *name;
        bool has_length, has_parts;
    } kinds[HX_SCHEDULE_COUNT] = {
        [HX_SCHEDULE_CONSTANT] = {"constant", false, false}, [HX_SCHEDULE_WARMUP] = {"warm-up", true, false},
        [HX_SCHEDULE_LINEAR] = {"linear", true, false},      [HX_SCHEDULE_STEP] = {"step", true, false},
        [HX_SCHEDULE_EXPONENTIAL] = {"exponential", false, false}, [HX_SCHEDULE_COSINE] = {"cosine", true, false},
        [HX_SCHEDULE_SEQUENCE] = {"sequence", false, true},  [HX_SCHEDULE_CHAIN] = {"chain", false, true}};
    if (s == NULL) return HX_FAIL(HX_ERR_ARG, "a schedule is NULL");
    if ((unsigned)s->kind >= HX_SCHEDULE_COUNT)
        return HX_FAIL(HX_ERR_CONFIG, "schedule %d: expected 0 to %d", (int)s->kind, HX_SCHEDULE_COUNT - 1);
    if (kinds[s->kind].has_length && s->length < 1)
        return HX_FAIL(HX_ERR_CONFIG, "a %s schedule over %lld steps: expected at least 1", kinds[s->kind].name,
                       (long long)s->length);
    if (!is_factor(s->start) || !is_factor(s->end) || !is_factor(s->gamma))
        return HX_FAIL(HX_ERR_CONFIG, "a %s schedule with start = %g, end = %g, gamma = %g: expected finite numbers >= 0",
                       kinds[s->kind].name, s->start, s->end, s->gamma);
    return kinds[s->kind].has_parts ? check_parts(s) : HX_OK;
}

static double rate_at(const hx_schedule *s, double lr, int64_t t);

static double rate_in_sequence(const hx_schedule *s, double lr, int64_t t) {
    int i = 0;
    for (; i + 1 < s->n_parts && t >= s->parts[i].length; i++) t -= s->parts[i].length;
    return rate_at(s->parts[i].schedule, lr, t);
}

static double rate_in_chain(const hx_schedule *s, double lr, int64_t t) {
    for (int i = 0; i < s->n_parts; i++) lr = rate_at(s->parts[i].schedule, lr, t);
    return lr;
}

static double rate_of_cosine(const hx_schedule *s, double lr, int64_t t) {
    const double lowest = lr * s->end;
    return t >= s->length ? lowest : lowest + (lr - lowest) * 0.5 * (1 + cos(HX_PI * (double)t / (double)s->length));
}

static double rate_at(const hx_schedule *s, double lr, int64_t t) {
    const double share = s->length > 0 ? (double)t / (double)s->length : 0;
    switch (s->kind) {
    case HX_SCHEDULE_WARMUP: return t + 1 >= s->length ? lr : lr * ((double)(t + 1) / (double)s->length);
    case HX_SCHEDULE_LINEAR: return lr * (t >= s->length ? s->end : s->start + (s->end - s->start) * share);
    case HX_SCHEDULE_STEP: return lr * pow(s->gamma, (double)(t / s->length));
    case HX_SCHEDULE_EXPONENTIAL: return lr * pow(s->gamma, (double)t);
    case HX_SCHEDULE_COSINE: return rate_of_cosine(s, lr, t);
    case HX_SCHEDULE_SEQUENCE: return rate_in_sequence(s, lr, t);
    case HX_SCHEDULE_CHAIN: return rate_in_chain(s, lr, t);
    default: return lr;
    }
}

hx_status hx_schedule_at(const hx_schedule *schedule, double lr, int64_t t, double *rate) {
    HX_TRY(check(schedule));
    if (t < 0) return HX_FAIL(HX_ERR_ARG, "a schedule after %lld updates: expected 0 or more", (long long)t);
    *rate = rate_at(schedule, lr, t);
    return HX_OK;
}

/* ---- the configured one ---- */

static hx_status check_schedule(const hx_optim_config *c, int64_t n_steps) {
    if (c->warmup < 0) return HX_FAIL(HX_ERR_CONFIG, "warmup = %lld: expected >= 0", (long long)c->warmup);
    if (c->schedule < 0 || c->schedule >= HX_LR_COUNT)
        return HX_FAIL(HX_ERR_CONFIG, "schedule = %d: expected 0 to %d", c->schedule, HX_LR_COUNT - 1);
    if ((c->schedule == HX_LR_COSINE || c->schedule == HX_LR_LINEAR) && n_steps < 1)
        return HX_FAIL(HX_ERR_CONFIG, "a schedule over %lld steps: expected at least 1", (long long)n_steps);
    if (!(c->min_lr_ratio >= 0 && c->min_lr_ratio <= 1))
        return HX_FAIL(HX_ERR_CONFIG, "min_lr_ratio = %g: expected 0 to 1", c->min_lr_ratio);
    if (!(c->gamma >= 0 && c->gamma <= 1) || c->decay_every < 1)
        return HX_FAIL(HX_ERR_CONFIG, "gamma = %g, decay_every = %lld: expected 0 to 1, and at least 1", c->gamma,
                       (long long)c->decay_every);
    return HX_OK;
}

/* What follows the warm-up, which leaves `length` updates of the run. */
static hx_schedule after_warmup(const hx_optim_config *c, int64_t length) {
    switch (c->schedule) {
    case HX_LR_COSINE: return (hx_schedule){HX_SCHEDULE_COSINE, .length = length, .end = c->min_lr_ratio};
    case HX_LR_LINEAR: return (hx_schedule){HX_SCHEDULE_LINEAR, .length = length, .start = 1, .end = c->min_lr_ratio};
    case HX_LR_STEP: return (hx_schedule){HX_SCHEDULE_STEP, .length = c->decay_every, .gamma = c->gamma};
    case HX_LR_EXPONENTIAL:
        return (hx_schedule){HX_SCHEDULE_EXPONENTIAL, .gamma = pow(c->gamma, 1 / (double)c->decay_every)};
    default: return (hx_schedule){.kind = HX_SCHEDULE_CONSTANT};
    }
}

/* Updates 1..warmup climb to lr. A cosine or a line then runs over the n_steps - warmup updates that are left, with
 * t = step - 1 - warmup as its time: the first of them has the full rate, and the lowest rate would be that
 * of the update after the last, as when a scheduler is advanced after each update. */
hx_status hx_schedule_lr(const hx_optim_config *config, int64_t step, int64_t n_steps, double *lr) {
    HX_TRY(hx__optim_check_config(config));
    if (step < 1) return HX_FAIL(HX_ERR_ARG, "step %lld: expected 1 for the first update", (long long)step);
    HX_TRY(check_schedule(config, n_steps));
    /* a run that ends within the warm-up never gets to the rest, whose length then does not matter */
    const int64_t left = n_steps - config->warmup;
    const hx_schedule climb = {HX_SCHEDULE_WARMUP, .length = config->warmup};
    const hx_schedule rest = after_warmup(config, left > 1 ? left : 1);
    const hx_schedule_part parts[2] = {{&climb, config->warmup}, {&rest, 0}};
    const hx_schedule run = {HX_SCHEDULE_SEQUENCE, .parts = parts, .n_parts = 2};
    return hx_schedule_at(config->warmup > 0 ? &run : &rest, config->lr, step - 1, lr);
}

/* ---- reduce on plateau ---- */

#define LEAST_CHANGE 1e-8 /* a fall of the scale by less is not worth one: PyTorch's eps */

hx_status hx_plateau_check(const hx_plateau_config *c) {
    if (!(c->factor >= 0 && c->factor < 1))
        return HX_FAIL(HX_ERR_CONFIG, "plateau: factor = %g: expected 0 <= factor < 1", c->factor);
    if (!(c->threshold >= 0 && c->threshold <= 1) || !(c->min_scale >= 0 && c->min_scale <= 1))
        return HX_FAIL(HX_ERR_CONFIG, "plateau: threshold = %g, lowest scale = %g: expected 0 to 1", c->threshold, c->min_scale);
    if (c->patience < 0 || c->cooldown < 0)
        return HX_FAIL(HX_ERR_CONFIG, "plateau: patience = %lld, cooldown = %lld: expected >= 0", (long long)c->patience,
                       (long long)c->cooldown);
    return HX_OK;
}

static void lower(const hx_plateau_config *c, hx_plateau *p) {
    const double scale = fmax(p->scale * c->factor, c->min_scale);
    if (p->scale - scale > LEAST_CHANGE) p->scale = scale;
    p->n_cooldown = c->cooldown;
    p->n_bad = 0;
}

void hx_plateau_update(const hx_plateau_config *config, hx_plateau *plateau, double loss) {
    if (loss < plateau->best * (1 - config->threshold)) {
        plateau->best = loss;
        plateau->n_bad = 0;
    } else {
        plateau->n_bad++;
    }
    if (plateau->n_cooldown > 0) {
        plateau->n_cooldown--;
        plateau->n_bad = 0;
    }
    if (plateau->n_bad > config->patience) lower(config, plateau);
}

hx_status hx_plateau_state(hx_plateau *plateau, const hx_agreement *ranks, hx_state_list *list) {
    HX_TRY(hx__scalar_item("/sched/scale", HX_F64, &plateau->scale, ranks, list));
    HX_TRY(hx__scalar_item("/sched/best", HX_F64, &plateau->best, ranks, list));
    HX_TRY(hx__scalar_item("/sched/n_bad", HX_I64, &plateau->n_bad, ranks, list));
    return hx__scalar_item("/sched/n_cooldown", HX_I64, &plateau->n_cooldown, ranks, list);
}
