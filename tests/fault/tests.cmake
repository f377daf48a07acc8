# A save killed at each of its system calls, by one process and by two ranks (every third call, for time).
add_executable(fault_ckpt_kill fault/ckpt_kill.c)
target_link_libraries(fault_ckpt_kill PRIVATE helix_static)
add_test(NAME fault/ckpt_kill/np1 COMMAND fault_ckpt_kill matrix 1 1)
add_test(NAME fault/ckpt_kill/np2 COMMAND fault_ckpt_kill matrix 2 3 ${mpirun} -n 2)
set_tests_properties(fault/ckpt_kill/np1 fault/ckpt_kill/np2 PROPERTIES LABELS fault TIMEOUT 300)
