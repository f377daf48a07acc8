#include "core/optim/scaler.h"

#include <math.h>

void hx_scaler_update(hx_scaler *scaler, bool is_finite) {
    scaler->n_clean = is_finite ? scaler->n_clean + 1 : 0;
    if (!is_finite && scaler->scale > HX_SCALER_LEAST) scaler->scale = fmax(scaler->scale / 2, HX_SCALER_LEAST);
    if (scaler->n_clean < HX_SCALER_N_CLEAN) return;
    scaler->scale = fmin(scaler->scale * 2, HX_SCALER_MOST);
    scaler->n_clean = 0;
}
