/* Buckets: 1. parameters in reverse order are placed, each in the open bucket of its dtype (half types apart from f32, so that
 * values too can lie in one buffer); one that would make it
 * larger than asked closes it and opens the next; 2. the buffers are made and sliced; 3. a table finds slots. */
#include "core/base/mem.h"
#include "dist/dp/ddp_impl.h"

/* Slices start on cache lines, as kernels like it. The gaps are zero and stay zero under sums. */
static int64_t aligned(int64_t offset, hx_dtype dtype) {
    int64_t unit = (int64_t)(HX_MEM_ALIGN / hx_dtype_bytes(dtype));
    return (offset + unit - 1) / unit * unit;
}

static hx_status open_bucket(hx__buckets *b, hx_dtype value_dtype, int64_t *out) {
    HX_TRY(hx_mem_grow((void **)&b->items, &b->capacity, b->n_items + 1, sizeof *b->items));
    b->items[b->n_items] = (hx__bucket){.value_dtype = value_dtype, .dtype = hx_dtype_accum(value_dtype), .first_slot = -1};
    *out = b->n_items++;
    return HX_OK;
}

static hx_status place(hx__buckets *b, const hx_param_list *params, int64_t bucket_bytes) {
    int64_t open[HX_DTYPE_COUNT];
    for (int i = 0; i < HX_DTYPE_COUNT; i++) open[i] = -1;
    HX_TRY(hx_mem_alloc_array(params->n_items, sizeof *b->slots, (void **)&b->slots));
    for (int64_t i = params->n_items - 1; i >= 0; i--) {
        hx_param *param = params->items[i];
        hx_dtype value_dtype = hx_tensor_dtype(param->value), dtype = hx_dtype_accum(value_dtype);
        int64_t count = hx_tensor_count(param->value), item_bytes = (int64_t)hx_dtype_bytes(dtype);
        if (param->is_frozen) continue;
        int64_t at = open[value_dtype], offset = at < 0 ? 0 : aligned(b->items[at].count, dtype);
        if (at < 0 || (offset > 0 && count > bucket_bytes / item_bytes - offset)) {
            HX_TRY(open_bucket(b, value_dtype, &at));
            open[value_dtype] = at;
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
static void divide(hx__bucket *bucket, int n_shares) {
    const int64_t each = (bucket->count + n_shares - 1) / n_shares;
    bucket->share = n_shares > 1 ? aligned(each, bucket->value_dtype) : each;
    bucket->count = bucket->share * n_shares;
}

static hx_status allocate(hx__bucket *bucket, hx_device *device, hx_stream *stream, int n_shares) {
    bucket->n_pending = bucket->n_slots;
    divide(bucket, n_shares);
    HX_TRY(hx_tensor_create_in(device, HX_POOL_COMM, bucket->dtype, HX_SHAPE(bucket->count), &bucket->flat));
    HX_TRY(hx_tensor_fill(stream, bucket->flat, 0));
    if (n_shares > 1) {
        HX_TRY(hx_tensor_create_in(device, HX_POOL_COMM, bucket->value_dtype, HX_SHAPE(bucket->count), &bucket->values));
        HX_TRY(hx_tensor_fill(stream, bucket->values, 0));
    }
    return hx_event_create(device, &bucket->done);
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
    param->own_begin = first < 0 ? 0 : first > count ? count : first;
    param->own_end = last < 0 ? 0 : last > count ? count : last;
    return HX_OK;
}

static hx_status allocate_all(hx__buckets *b, hx_device *device, hx_stream *stream, hx__share share) {
    for (int64_t i = 0; i < b->n_items; i++) HX_TRY(allocate(&b->items[i], device, stream, share.n_shares));
    for (int64_t i = 0; i < b->n_slots; i++) {
        hx__slot *slot = &b->slots[i];
        const hx__bucket *bucket = &b->items[slot->bucket];
        if (bucket->values != NULL) HX_TRY(move_value(slot, bucket, device, stream, share.index));
        HX_TRY(hx_tensor_window(bucket->flat, slot->offset, hx_tensor_shape(slot->leaf), &slot->slice));
        HX_TRY(hx_tensor_set_grad(slot->leaf, slot->slice));
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
    return hx_tensor_grad_is_set(slot->leaf) && hx_tensor_grad(slot->leaf) == slot->slice;
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
                             int64_t bucket_bytes, hx__share share) {
    HX_TRY(place(buckets, params, bucket_bytes));
    HX_TRY(index_slots(buckets));
    HX_TRY(allocate_all(buckets, device, stream, share));
    return share.n_shares > 1 ? index_slots(buckets) : HX_OK; /* leaves that moved are other tensors */
}

void hx__buckets_destroy(hx__buckets *b) {
    for (int64_t i = 0; i < b->n_slots; i++) {
        hx__slot *slot = &b->slots[i];
        if (slot->slice != NULL && hx_tensor_grad(slot->leaf) == slot->slice)
            (void)hx_tensor_set_grad(slot->leaf, NULL); /* taking away cannot fail */
        slot->param->is_shared = false;
        slot->param->own_begin = 0;
        slot->param->own_end = hx_tensor_count(slot->param->value);
        hx_tensor_destroy(&slot->slice);
        hx_tensor_destroy(&slot->leaf);
    }
    for (int64_t i = 0; i < b->n_items; i++) {
        hx_event_destroy(&b->items[i].done);
        hx_tensor_destroy(&b->items[i].flat);
        hx_tensor_destroy(&b->items[i].values);
    }
    hx_mem_free((void **)&b->table);
    hx_mem_free((void **)&b->items);
    hx_mem_free((void **)&b->slots);
}
