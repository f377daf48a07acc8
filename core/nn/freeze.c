#include <fnmatch.h>
#include <stdio.h>
#include "core/base/options.h"
#include "core/nn/layer.h"

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

/* A glob that was misspelt would silently train what was not to change: the names are shown, as many as a line holds. */
static hx_status refuse_unmatched(hx_layer *root, const char *glob) {
    char names[600] = "", path[HX_NAME_BYTES];
    size_t at = 0;
    hx_param_list list = {0};
    HX_TRY(hx_layer_params(root, &list));
    for (int64_t i = 0; i < list.n_items; i++)
        for (int k = 0; k < hx_param_n_logical(list.items[i]) && at < sizeof names; k++) {
            hx_param_logical(list.items[i], k, path, NULL);
            at += (size_t)snprintf(names + at, sizeof names - at, "%s%s", at > 0 ? ", " : "", path);
        }
    hx_param_list_destroy(&list);
    return HX_FAIL(HX_ERR_CONFIG, "freeze: no parameter has a name like \"%s\"; there are: %s%s", glob, names,
                   at >= sizeof names ? "..." : "");
}

hx_status hx_layer_freeze_list(hx_layer *root, const char *globs, int64_t *n) {
    hx_word_list list;
    int64_t total = 0;
    HX_TRY(hx_word_list_of(globs, &list));
    for (int i = 0; i < list.n; i++) {
        int64_t matching = 0;
        HX_TRY(hx_layer_freeze(root, list.items[i], true, &matching));
        if (matching == 0) return refuse_unmatched(root, list.items[i]);
        total += matching;
    }
    if (n != NULL) *n = total;
    return HX_OK;
}
