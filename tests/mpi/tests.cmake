# All combinations of parallel training against one process: a few in which each two choices meet, on worlds that two cores run
# quickly; all of them, and the other worlds, with HELIX_TEST_FULL=1.
add_executable(mpi_matrix mpi/matrix.c mpi/matrix_cases.c)
target_link_libraries(mpi_matrix PRIVATE helix_static)
foreach(np 1 2 3 4 6 8 16)
  add_test(NAME mpi/matrix/np${np} COMMAND ${mpirun} -n ${np} $<TARGET_FILE:mpi_matrix>)
  set_tests_properties(mpi/matrix/np${np} PROPERTIES LABELS mpi TIMEOUT 900 SKIP_REGULAR_EXPRESSION "\n0 combinations, 0 failed")
endforeach()

# shares of more ranks than tests usually have
add_test(NAME mpi/zero/memory_is_that_of_theory_within_3_percent/np8
         COMMAND ${mpirun} -n 8 $<TARGET_FILE:mpi_zero> --filter zero/memory_is_that_of_theory_within_3_percent -j1)
set_tests_properties(mpi/zero/memory_is_that_of_theory_within_3_percent/np8 PROPERTIES LABELS mpi TIMEOUT 120)
