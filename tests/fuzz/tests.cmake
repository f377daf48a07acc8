# helix_fuzzer(name [runs]): the harness tests/fuzz/fuzz_NAME.c, see tests/fuzz/fuzz.h, becomes the program fuzz_NAME, which starts from the
# files of tests/fuzz/corpus/NAME/. Preset fuzz links it with libFuzzer, for launch/test.sh to run; elsewhere driver.c makes it the CTest
# entry fuzz/NAME with that many mutations, the same ones each time.
add_custom_target(fuzzers)
function(helix_fuzzer name)
  set(runs ${ARGN})
  if(NOT runs)
    set(runs 20000)
  endif()
  add_executable(fuzz_${name} fuzz/fuzz_${name}.c)
  target_link_libraries(fuzz_${name} PRIVATE helix_static)
  add_dependencies(fuzzers fuzz_${name})
  if(HELIX_SANITIZE MATCHES fuzzer)
    target_link_options(fuzz_${name} PRIVATE -fsanitize=fuzzer)
    return()
  endif()
  target_sources(fuzz_${name} PRIVATE fuzz/driver.c)
  if(HELIX_SANITIZE MATCHES thread) # some fifteen times slower, and finds nothing in one thread
    math(EXPR runs "${runs} / 10")
  endif()
  add_test(NAME fuzz/${name} COMMAND fuzz_${name} -runs=${runs} ${CMAKE_CURRENT_SOURCE_DIR}/fuzz/corpus/${name})
  set_tests_properties(fuzz/${name} PROPERTIES LABELS fuzz TIMEOUT 600)
endfunction()

# those whose inputs take much less or much more than a tenth of a millisecond
set(fuzz_runs_config 100000)
set(fuzz_runs_ckpt 2000)
file(GLOB sources CONFIGURE_DEPENDS fuzz/fuzz_*.c)
foreach(source ${sources})
  get_filename_component(name ${source} NAME_WE)
  string(REGEX REPLACE "^fuzz_" "" name ${name})
  helix_fuzzer(${name} ${fuzz_runs_${name}})
endforeach()
