/* What was built: version and commit, for files that outlive the program. */
#ifndef HX_CORE_BASE_BUILD_H
#define HX_CORE_BASE_BUILD_H

#ifdef __cplusplus
extern "C" {
#endif

/** `git describe --always --dirty` of the sources, "unknown" outside a repository. Static storage. */
const char *hx_build_commit(void);
/** "0.1.0 (d3968dd)": version and commit. Static storage. */
const char *hx_build(void);

#ifdef __cplusplus
}
#endif
#endif
