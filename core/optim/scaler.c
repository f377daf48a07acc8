#include "core/optim/scaler.h"
#include <math.h>
#include "core/optim/optim_impl.h"

void hx_scaler_update(hx_scaler *scaler, bool is_finite) {
    scaler->n_clean = is_finite ? scaler->n_clean + 1 : 0;
    if (!is_finite && scaler->scale > HX_SCALER_LEAST) scaler->scale = fmax(scaler->scale / 2, HX_SCALER_LEAST);
    if (scaler->n_clean < HX_SCALER_N_CLEAN) return;
    scaler->scale = fmin(scaler->scale * 2, HX_SCALER_MOST);
    scaler->n_clean = 0;
}

hx_status hx_scaler_state(hx_scaler *scaler, int replica, int n_replicas, hx_state_list *list) {
    HX_TRY(hx__scalar_item("/scaler/scale", HX_F64, &scaler->scale, replica, n_replicas, list));
    return hx__scalar_item("/scaler/n_clean", HX_I64, &scaler->n_clean, replica, n_replicas, list);
}
