/* Numbers made by make.py, read from golden.h5, and what the tests of this folder do with them. */
#ifndef HX_TESTS_GOLDEN_GOLDEN_H
#define HX_TESTS_GOLDEN_GOLDEN_H

#include <criterion/criterion.h>

#include "core/autograd/tape.h"

#define MUST(call) cr_assert_eq((call), HX_OK, "%s", hx_error_message())

typedef struct golden_rig {
    hx_device *device;
    hx_stream *stream;
    hx_tape *tape;
    hx_ctx ctx;
} golden_rig;

void golden_open(const char *backend, golden_rig *out);
void golden_close(golden_rig *rig);

typedef struct golden_array {
    hx_shape shape;
    double *values; /* owned; integers are exact */
    bool is_float;
} golden_array;

bool golden_has(const char *path);
void golden_read(const char *path, golden_array *out);
void golden_free(golden_array *array);
/** Numbers of the file on the device: floating ones in `dtype`, integers as i64. */
hx_tensor *golden_tensor(golden_rig *rig, const char *path, hx_dtype dtype);
/** |got - want| / |want| in the 2-norm over all elements, or |got - want| if want is zero; infinite if the shapes
 *  differ or a number is not finite. */
double golden_distance(golden_rig *rig, hx_tensor *got, const char *path);
/** The same of host numbers. */
double golden_distance_of(const double *got, const double *want, int64_t n);

#endif
