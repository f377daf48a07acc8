/* Schedules of the learning rate: pure functions of the number of updates done, put together from parts; and the one
 * that is none, because it looks at the loss.
 *
 *     const hx_schedule climb = {HX_SCHEDULE_WARMUP, .length = 100}, fall = {HX_SCHEDULE_COSINE, .length = 900, .end = 0.1};
 *     const hx_schedule_part parts[] = {{&climb, 100}, {&fall, 0}};
 *     const hx_schedule run = {HX_SCHEDULE_SEQUENCE, .parts = parts, .n_parts = 2};
 *     HX_TRY(hx_schedule_at(&run, 3e-4, t, &lr));      // t = 0 for the first update
 */
#ifndef HX_CORE_OPTIM_SCHEDULE_H
#define HX_CORE_OPTIM_SCHEDULE_H

#include "core/train/hooks.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The rate after t updates from a base rate lr; n is the length. */
typedef enum hx_schedule_kind {
    HX_SCHEDULE_CONSTANT,    /* lr */
    HX_SCHEDULE_WARMUP,      /* lr (t + 1) / n, and lr from t = n - 1 on */
    HX_SCHEDULE_LINEAR,      /* lr (start + (end - start) t / n), and lr end from t = n on */
    HX_SCHEDULE_STEP,        /* lr gamma^floor(t / n) */
    HX_SCHEDULE_EXPONENTIAL, /* lr gamma^t */
    HX_SCHEDULE_COSINE,      /* lr (end + (1 - end) (1 + cos(pi t / n)) / 2), and lr end from t = n on */
    HX_SCHEDULE_SEQUENCE,    /* each part in turn, with its own t from 0 on; the last goes on for ever */
    HX_SCHEDULE_CHAIN,       /* every part at t, the rate of one the base rate of the next: factors multiply */
    HX_SCHEDULE_COUNT
} hx_schedule_kind;

typedef struct hx_schedule hx_schedule;

typedef struct hx_schedule_part {
    const hx_schedule *schedule; /* borrowed */
    int64_t length;              /* SEQUENCE: updates; of no meaning in the last part and in a CHAIN */
} hx_schedule_part;

struct hx_schedule {
    hx_schedule_kind kind;
    int64_t length;                /* n, at least 1 */
    double start, end;             /* factors, finite and >= 0 */
    double gamma;                  /* finite and >= 0 */
    const hx_schedule_part *parts; /* borrowed [n_parts] */
    int n_parts;
};

/** @param lr  base rate; @param t  updates done, >= 0
 *  @return HX_ERR_CONFIG: a number of the schedule or of one of its parts has no meaning, e.g. a length of 0;
 *          HX_ERR_ARG: t < 0, or a part is NULL */
hx_status hx_schedule_at(const hx_schedule *schedule, double lr, int64_t t, double *rate);

/* ---- reduce on plateau ---- */

/* The rate falls by `factor` when more than `patience` evaluations in a row gave no loss below
 * (1 - threshold) times the best; the `cooldown` evaluations after a fall count as good ones. */
typedef struct hx_plateau_config {
    double factor, threshold;
    int64_t patience, cooldown;
    double min_scale; /* the scale falls no lower */
} hx_plateau_config;
#define HX_PLATEAU_DEFAULT {.factor = 0.1, .threshold = 1e-4, .patience = 10, .cooldown = 0, .min_scale = 0}

/* The whole state; set it with HX_PLATEAU_START. */
typedef struct hx_plateau {
    double scale; /* multiplies the learning rate */
    double best;  /* lowest loss that counted */
    int64_t n_bad, n_cooldown;
} hx_plateau;
#define HX_PLATEAU_START {.scale = 1, .best = HUGE_VAL}

/** @return HX_ERR_CONFIG: factor not in [0,1), threshold or min_scale not in [0,1], patience or cooldown < 0 */
hx_status hx_plateau_check(const hx_plateau_config *config);
/** One evaluation. A loss that is NaN is a bad one. */
void hx_plateau_update(const hx_plateau_config *config, hx_plateau *plateau, double loss);
/** Append the state ("/sched/scale", "/sched/best", "/sched/n_bad", "/sched/n_cooldown"); data are borrowed. */
hx_status hx_plateau_state(hx_plateau *plateau, const hx_agreement *ranks, hx_state_list *list);

#ifdef __cplusplus
}
#endif
#endif
