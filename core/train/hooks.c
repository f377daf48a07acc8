#include "core/train/hooks.h"

#include <string.h>
#include "core/base/mem.h"

int64_t hx_leaves_count(const hx_leaves *l) {
    if (l->is_interleaved) return (l->n - l->rank + l->size - 1) / l->size;
    return l->n * (l->rank + 1) / l->size - l->n * l->rank / l->size;
}

int64_t hx_leaves_at(const hx_leaves *l, int64_t i) { return l->is_interleaved ? i * l->size + l->rank : l->n * l->rank / l->size + i; }

void hx_agreement_copies(const hx_agreement *ranks, bool is_split, bool is_shared, int *copy, int *n_copies) {
    const bool has_parts = ranks != NULL && ranks->n_parts > 1;
    *copy = ranks == NULL ? 0 : ranks->rank;
    *n_copies = ranks == NULL ? 1 : ranks->size;
    if (is_shared) { /* each share is on one rank of those with the same part, or on one on each host */
        const int each = has_parts && !is_split ? ranks->n_parts : 1, n = ranks != NULL && ranks->n_share_copies > 0 ? ranks->n_share_copies : 1;
        *copy = (each > 1 ? ranks->part : 0) + each * (n > 1 ? ranks->share_copy : 0);
        *n_copies = each * n;
    } else if (is_split && has_parts) {
        *copy = ranks->replica;
        *n_copies = ranks->n_replicas;
    }
}

hx_status hx_state_list_add(hx_state_list *list, const hx_state_item *item) {
    if (memchr(item->name, '\0', sizeof item->name) == NULL || item->name[0] == '\0')
        return HX_FAIL(HX_ERR_ARG, "a state item's name is empty or longer than %zu bytes",
                       sizeof item->name - 1);
    if (item->layout == NULL) return HX_FAIL(HX_ERR_ARG, "state item %s has no layout", item->name);
    if (item->n_replicas < 1 || item->replica < 0 || item->replica >= item->n_replicas)
        return HX_FAIL(HX_ERR_ARG, "state item %s: replica %d of %d", item->name, item->replica,
                       item->n_replicas);
    HX_TRY(hx_mem_grow((void **)&list->items, &list->capacity, list->n_items + 1, sizeof *list->items));
    list->items[list->n_items++] = *item;
    return HX_OK;
}

void hx_state_list_destroy(hx_state_list *list) {
    hx_mem_free((void **)&list->items);
    list->n_items = list->capacity = 0;
}
