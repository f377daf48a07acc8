/* What tests of Criterion expect of calls that return a status. */
#ifndef HX_TESTS_SUPPORT_EXPECT_H
#define HX_TESTS_SUPPORT_EXPECT_H

#include <criterion/criterion.h>
#include <string.h>

#include "core/base/status.h"

#define OK(call) cr_assert_eq((call), HX_OK, "%s: %s\n%s", #call, hx_error_message(), hx_error_trace())

/* The call fails with that code, and its message has those words. */
#define REFUSED(call, code, words)                                                                             \
    do {                                                                                                       \
        hx_status refused_ = (call);                                                                           \
        cr_assert_eq(refused_, (code), "%s gave %s: %s", #call, hx_status_name(refused_), hx_error_message()); \
        cr_assert(strstr(hx_error_message(), (words)), "`%s` lacks `%s`", hx_error_message(), (words));        \
    } while (0)

#endif
