# Programs that measure; they are targets, not tests, but for a few runs of every op, which show that the bench works.
foreach(name bench_cases bench_ckpt bench_steps gemm_peers)
  add_executable(${name} bench/${name}.c)
  target_link_libraries(${name} PRIVATE helix_static)
endforeach()
find_library(DNNL_LIBRARY dnnl) # a peer only: Helix does without
if(DNNL_LIBRARY)
  target_link_libraries(gemm_peers PRIVATE ${DNNL_LIBRARY} gomp)
  target_compile_definitions(gemm_peers PRIVATE HAVE_DNNL=1)
endif()
add_executable(raw_write bench/raw_write.c) # the disk without Helix
target_link_libraries(raw_write PRIVATE Threads::Threads)
target_sources(bench_cases PRIVATE conformance/battery.c conformance/cases.c)
target_compile_definitions(bench_cases PRIVATE CONF_NO_RUNNER)
add_test(NAME bench/cases COMMAND bench_cases --smoke --json)
set_tests_properties(bench/cases PROPERTIES LABELS bench TIMEOUT 120)

# Instructions that training steps execute, beside the recorded numbers. Of a build that optimises only: no other was recorded.
if(CMAKE_BUILD_TYPE STREQUAL Release AND NOT HELIX_SANITIZE)
  add_test(NAME bench/instructions COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/bench/instructions.sh ${PROJECT_BINARY_DIR})
  set_tests_properties(bench/instructions PROPERTIES LABELS bench TIMEOUT 600 SKIP_RETURN_CODE 77)
endif()

# Minutes each, on a machine that does nothing else: `ctest -C bench -L bench -V` runs them, a plain ctest does not.
foreach(name overlap scaling elastic ckpt)
  add_test(NAME bench/${name} CONFIGURATIONS bench COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/bench/${name}.sh ${PROJECT_BINARY_DIR})
  set_tests_properties(bench/${name} PROPERTIES LABELS bench TIMEOUT 1800 RUN_SERIAL TRUE)
endforeach()
