#include <math.h>
#include "core/optim/optim_impl.h"

#define HX_PI 3.141592653589793

enum { SCHEDULE_COSINE, SCHEDULE_CONSTANT };

/* Updates 1..warmup climb to lr. The cosine then runs over the n_steps - warmup updates that are left, with
 * t = step - 1 - warmup as its time: the first of them has the full rate, and the lowest rate would be that
 * of the update after the last, as when a scheduler is advanced after each update. */
hx_status hx_schedule_lr(const hx_optim_config *config, int64_t step, int64_t n_steps, double *lr) {
    HX_TRY(hx__optim_check_config(config));
    if (step < 1) return HX_FAIL(HX_ERR_ARG, "step %lld: expected 1 for the first update", (long long)step);
    if (config->warmup < 0)
        return HX_FAIL(HX_ERR_CONFIG, "warmup = %lld: expected >= 0", (long long)config->warmup);
    if (config->schedule != SCHEDULE_COSINE && config->schedule != SCHEDULE_CONSTANT)
        return HX_FAIL(HX_ERR_CONFIG, "schedule = %d: expected 0 (cosine) or 1 (constant)", config->schedule);
    if (config->schedule == SCHEDULE_COSINE && n_steps < 1)
        return HX_FAIL(HX_ERR_CONFIG, "a cosine over %lld steps: expected at least 1", (long long)n_steps);
    if (!(config->min_lr_ratio >= 0 && config->min_lr_ratio <= 1))
        return HX_FAIL(HX_ERR_CONFIG, "min_lr_ratio = %g: expected 0 to 1", config->min_lr_ratio);
    if (step <= config->warmup) {
        *lr = config->lr * ((double)step / (double)config->warmup);
        return HX_OK;
    }
    if (config->schedule == SCHEDULE_CONSTANT) {
        *lr = config->lr;
        return HX_OK;
    }
    const double t = (double)(step - 1 - config->warmup), length = (double)n_steps - (double)config->warmup;
    const double lowest = config->lr * config->min_lr_ratio;
    *lr = t >= length ? lowest : lowest + (config->lr - lowest) * 0.5 * (1 + cos(HX_PI * t / length));
    return HX_OK;
}
