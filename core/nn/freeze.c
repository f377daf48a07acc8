#include "core/nn/layer.h"

#include <fnmatch.h>

/* How many of a parameter's logical names match. */
static int n_matching(const hx_param *param, const char *glob) {
    int n = 0;
    for (int i = 0; i < hx_param_n_logical(param); i++) {
        char path[HX_NAME_BYTES];
        hx_param_logical(param, i, path, NULL);
        n += fnmatch(glob, path, 0) == 0;
    }
    return n;
}

/* One storage has one gradient: it is trained as a whole or not at all. */
static hx_status check_not_torn(const hx_param_list *list, const char *glob) {
    for (int64_t i = 0; i < list->n_items; i++) {
        const hx_param *param = list->items[i];
        const int n = n_matching(param, glob), all = hx_param_n_logical(param);
        if (n > 0 && n < all)
            return HX_FAIL(HX_ERR_CONFIG,
                           "\"%s\" matches %d of the %d tensors fused in %s: expected none or all", glob, n,
                           all, param->path);
    }
    return HX_OK;
}

hx_status hx_layer_freeze(hx_layer *root, const char *glob, bool frozen, int64_t *n) {
    hx_param_list list = {0};
    hx_status status = HX_OK;
    int64_t n_matched = 0;
    if (glob == NULL) return HX_FAIL(HX_ERR_ARG, "glob is NULL");
    HX_TRY(hx_layer_params(root, &list));
    HX_TRY_GOTO(check_not_torn(&list, glob), done);
    for (int64_t i = 0; i < list.n_items; i++) {
        const int matching = n_matching(list.items[i], glob);
        if (matching == 0) continue;
        list.items[i]->is_frozen = frozen;
        hx_tensor_set_requires_grad(list.items[i]->value, !frozen);
        n_matched += matching;
    }
    if (n != NULL) *n = n_matched;
done:
    hx_param_list_destroy(&list);
    return status;
}
