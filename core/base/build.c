#include "core/base/build.h"

#include <helix_commit.h> /* made by the build: launch/cmake/commit.cmake */

const char *hx_build_commit(void) { return HELIX_COMMIT; }

const char *hx_build(void) { return HELIX_PROJECT_VERSION " (" HELIX_COMMIT ")"; }
