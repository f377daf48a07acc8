/* Buckets: 1. parameters in reverse order are placed, each in the open bucket of its kind: of its dtype (half types apart from f32,
 * so that values too can lie in one buffer) and of whole or partial gradients; one that would make it larger than asked closes
 * it and opens the next; 2. the buffers are made and sliced; 3. a table finds slots. */
#include "core/base/mem.h"
#include "dist/dp/ddp_impl.h"

/* Slices start on cache lines, as kernels like it. The gaps are zero and stay zero under sums. */
static int64_t aligned(int64_t offset, hx_dtype dtype, int64_t unit) {
    if (unit == 0) unit = (int64_t)(HX_MEM_ALIGN / hx_dtype_bytes(dtype));
    return (offset + unit - 1) / unit * unit;
}

static hx_status open_bucket(hx__buckets *b, const hx_param *param, int64_t *out) {
    const hx_dtype value_dtype = hx_tensor_dtype(param->value);
    HX_TRY(hx_mem_grow((void **)&b->items, &b->capacity, b->n_items + 1, sizeof *b->items));
    b->items[b->n_items] = (hx__bucket){
        .value_dtype = value_dtype, .dtype = hx_dtype_accum(value_dtype), .is_partial = param->is_partial, .first_slot = -1};
    *out = b->n_items++;
    return HX_OK;
}

static hx_status place(hx__buckets *b, const hx_param_list *params, int64_t bucket_bytes, int64_t unit) {
    int64_t open[2][HX_DTYPE_COUNT];
    for (int i = 0; i < HX_DTYPE_COUNT; i++) open[0][i] = open[1][i] = -1;
    HX_TRY(hx_mem_alloc_array(params->n_items, sizeof *b->slots, (void **)&b->slots));
    for (int64_t i = params->n_items - 1; i >= 0; i--) {
        hx_param *param = params->items[i];
        hx_dtype value_dtype = hx_tensor_dtype(param->value), dtype = hx_dtype_accum(value_dtype);
        int64_t count = hx_tensor_count(param->value), item_bytes = (int64_t)hx_dtype_bytes(dtype);
        if (param->is_frozen) continue;
        int64_t at = open[param->is_partial][value_dtype], offset = at < 0 ? 0 : aligned(b->items[at].count, dtype, unit);
        if (at < 0 || (offset > 0 && count > bucket_bytes / item_bytes - offset)) {
            HX_TRY(open_bucket(b, param, &at));
            open[param->is_partial][value_dtype] = at;
            offset = 0;
        }
        hx__bucket *bucket = &b->items[at];
        b->slots[b->n_slots] = (hx__slot){.param = param,
                                          .leaf = hx_tensor_retain(param->value),
                                          .bucket = at,
                                          .next = bucket->first_slot,
                                          .offset = offset};
        bucket->first_slot = b->n_slots++;
        bucket->count = offset + count;
        bucket->n_slots++;
    }
    return HX_OK;
}

/* The count becomes that of equal shares, each of which begins on a cache line in values and gradients. */
static void divide(hx__bucket *bucket, const hx__deal *deal) {
    const int64_t each = (bucket->count + deal->n_parts - 1) / deal->n_parts;
    bucket->share = deal->n_parts > 1 ? aligned(each, bucket->value_dtype, deal->unit) : each;
    bucket->count = bucket->share * deal->n_parts;
}

static hx_status create_zeroed(const hx__buckets *b, hx_stream *stream, hx_dtype dtype, int64_t count, hx_tensor **out) {
    HX_TRY(hx_tensor_create_in(b->device, HX_POOL_COMM, dtype, HX_SHAPE(count), out));
    return hx_tensor_fill(stream, *out, 0);
}

hx_status hx__bucket_flat(const hx__buckets *b, const hx__bucket *bucket, hx_tensor **out) {
    return hx_tensor_create_in(b->device, HX_POOL_COMM, bucket->dtype, HX_SHAPE(bucket->count), out);
}

static hx_status allocate_gradients(const hx__buckets *b, hx__bucket *bucket, hx_stream *stream, const hx__deal *deal) {
    for (int i = 0; i < deal->n_sums; i++) {
        hx_tensor *sum = NULL;
        HX_TRY(create_zeroed(b, stream, bucket->dtype, deal->is_transient ? bucket->share : bucket->count, &sum));
        hx__tree_give_consume(&bucket->tree, &sum);
    }
    if (deal->n_sums > 0) return HX_OK;
    return create_zeroed(b, stream, bucket->dtype, deal->is_transient ? bucket->share : bucket->count,
                         deal->is_transient ? &bucket->shard : &bucket->flat);
}

/* The parameter moves into the bucket's buffer; this rank updates what of it lies in its share. */
static hx_status move_value(hx__slot *slot, const hx__bucket *bucket, hx_device *device, hx_stream *stream, int index) {
    hx_param *param = slot->param;
    hx_ctx ctx = {.device = device, .stream = stream};
    const int64_t count = hx_tensor_count(param->value), first = index * bucket->share - slot->offset, last = first + bucket->share;
    hx_tensor *moved = NULL;
    HX_TRY(hx_tensor_window(bucket->values, slot->offset, hx_tensor_shape(param->value), &moved));
    hx_status status = hx_copy_into(&ctx, param->value, moved);
    if (status != HX_OK) {
        hx_tensor_destroy(&moved);
        return status;
    }
    hx_tensor_set_requires_grad(moved, true);
    hx_tensor_destroy(&param->value);
    param->value = moved;
    hx_tensor_destroy(&slot->leaf);
    slot->leaf = hx_tensor_retain(moved);
    param->is_shared = true;
    const bool is_none = last <= 0 || first >= count;
    param->own_begin = is_none || first < 0 ? 0 : first;
    param->own_end = is_none ? 0 : last > count ? count : last;
    return HX_OK;
}

static hx_status place_slot(hx__slot *slot, hx_tensor *flat) {
    hx_tensor_destroy(&slot->slice);
    HX_TRY(hx_tensor_window(flat, slot->offset, hx_tensor_shape(slot->leaf), &slot->slice));
    return hx_tensor_set_grad(slot->leaf, slot->slice);
}

hx_status hx__bucket_place(hx__buckets *b, hx__bucket *bucket) {
    for (int64_t i = bucket->first_slot; i >= 0; i = b->slots[i].next) HX_TRY(place_slot(&b->slots[i], bucket->flat));
    return HX_OK;
}

static void take_away(hx__slot *slot) {
    if (slot->slice != NULL && hx_tensor_grad(slot->leaf) == slot->slice)
        (void)hx_tensor_set_grad(slot->leaf, NULL); /* taking away cannot fail */
    hx_tensor_destroy(&slot->slice);
}

void hx__bucket_take_away(hx__buckets *b, hx__bucket *bucket) {
    for (int64_t i = bucket->first_slot; i >= 0; i = b->slots[i].next) take_away(&b->slots[i]);
}

/* One bucket after the other: what a parameter leaves behind is room for the next ones. */
static hx_status move_values(hx__buckets *b, hx__bucket *bucket, hx_stream *stream, const hx__deal *deal) {
    HX_TRY(create_zeroed(b, stream, bucket->value_dtype, bucket->count, &bucket->values));
    for (int64_t i = bucket->first_slot; i >= 0; i = b->slots[i].next) HX_TRY(move_value(&b->slots[i], bucket, b->device, stream, deal->index));
    return HX_OK;
}

static hx_status allocate_all(hx__buckets *b, hx_stream *stream, const hx__deal *deal) {
    for (int64_t i = 0; i < b->n_items; i++) {
        hx__bucket *bucket = &b->items[i];
        bucket->n_pending = bucket->n_slots;
        divide(bucket, deal);
        if (deal->is_shared) HX_TRY(move_values(b, bucket, stream, deal));
    }
    for (int64_t i = 0; i < b->n_items; i++) {
        HX_TRY(allocate_gradients(b, &b->items[i], stream, deal));
        if (b->items[i].flat != NULL) HX_TRY(hx__bucket_place(b, &b->items[i]));
    }
    return HX_OK;
}

/* Handles are allocated in slabs, so their low bits repeat: a multiplication spreads the others (Fibonacci hashing). */
static int64_t first_probe(const hx__buckets *b, const hx_tensor *leaf) {
    uint64_t mixed = (uint64_t)(uintptr_t)leaf * 0x9E3779B97F4A7C15ull;
    return (int64_t)((mixed >> 20) & (uint64_t)(b->table_size - 1));
}

hx__slot *hx__buckets_find(const hx__buckets *b, const hx_tensor *leaf) {
    for (int64_t i = first_probe(b, leaf); b->table[i] >= 0; i = (i + 1) & (b->table_size - 1))
        if (b->slots[b->table[i]].leaf == leaf) return &b->slots[b->table[i]];
    return NULL;
}

bool hx__slot_has_gradient(const hx__slot *slot) {
    return slot->slice != NULL && hx_tensor_grad_is_set(slot->leaf) && hx_tensor_grad(slot->leaf) == slot->slice;
}

static hx_status index_slots(hx__buckets *b) {
    hx_mem_free((void **)&b->table);
    b->table_size = 2;
    while (b->table_size < 2 * b->n_slots) b->table_size *= 2;
    HX_TRY(hx_mem_alloc_array(b->table_size, sizeof *b->table, (void **)&b->table));
    for (int64_t i = 0; i < b->table_size; i++) b->table[i] = -1;
    for (int64_t i = 0; i < b->n_slots; i++) {
        const hx__slot *known = hx__buckets_find(b, b->slots[i].leaf);
        if (known != NULL)
            return HX_FAIL(HX_ERR_ARG, "parameters %s and %s are one tensor: expected each tensor once",
                           b->slots[i].param->path, known->param->path);
        int64_t at = first_probe(b, b->slots[i].leaf);
        while (b->table[at] >= 0) at = (at + 1) & (b->table_size - 1);
        b->table[at] = i;
    }
    return HX_OK;
}

hx_status hx__buckets_create(hx__buckets *buckets, hx_device *device, hx_stream *stream, const hx_param_list *params,
                             int64_t bucket_bytes, const hx__deal *deal) {
    buckets->device = device;
    HX_TRY(place(buckets, params, bucket_bytes, deal->unit));
    HX_TRY(index_slots(buckets));
    HX_TRY(allocate_all(buckets, stream, deal));
    return deal->is_shared ? index_slots(buckets) : HX_OK; /* leaves that moved are other tensors */
}

void hx__buckets_destroy(hx__buckets *b) {
    for (int64_t i = 0; i < b->n_slots; i++) {
        hx__slot *slot = &b->slots[i];
        take_away(slot);
        slot->param->is_shared = false;
        slot->param->own_begin = 0;
        slot->param->own_end = hx_tensor_count(slot->param->value);
        slot->param->own_grad = NULL;
        hx_tensor_destroy(&slot->own);
        hx_tensor_destroy(&slot->leaf);
    }
    for (int64_t i = 0; i < b->n_items; i++) {
        hx__tree_destroy(&b->items[i].tree);
        hx_tensor_destroy(&b->items[i].shard);
        hx_tensor_destroy(&b->items[i].flat);
        hx_tensor_destroy(&b->items[i].values);
    }
    hx_mem_free((void **)&b->table);
    hx_mem_free((void **)&b->items);
    hx_mem_free((void **)&b->slots);
}
