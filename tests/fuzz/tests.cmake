# Fuzzers with a fixed seed: a program each, named fuzz_x. Rounds and seed are their arguments.
add_executable(fuzz_config fuzz/fuzz_config.c)
target_link_libraries(fuzz_config PRIVATE helix_static)
# ThreadSanitizer is some fifteen times slower, and finds nothing in one thread
set(rounds)
if(HELIX_SANITIZE MATCHES thread)
  set(rounds 20000)
endif()
add_test(NAME fuzz/config COMMAND fuzz_config ${rounds})
set_tests_properties(fuzz/config PROPERTIES LABELS fuzz TIMEOUT 600)

# Seconds and seed are its arguments; without a seed it takes, and prints, another one each time.
add_executable(fuzz_ckpt fuzz/fuzz_ckpt.c)
target_link_libraries(fuzz_ckpt PRIVATE helix_static)
add_test(NAME fuzz/ckpt COMMAND fuzz_ckpt 20)
set_tests_properties(fuzz/ckpt PROPERTIES LABELS fuzz TIMEOUT 120)
