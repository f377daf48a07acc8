# Programs that measure; they are targets, not tests.
foreach(name bench_ops bench_gpt)
  add_executable(${name} bench/${name}.c)
  target_link_libraries(${name} PRIVATE helix_static)
endforeach()
