# A save killed at each of its system calls, by one process and by two ranks (every third call, for time).
add_executable(fault_ckpt_kill fault/ckpt_kill.c)
target_link_libraries(fault_ckpt_kill PRIVATE helix_static)
add_test(NAME fault/ckpt_kill/np1 COMMAND fault_ckpt_kill matrix 1 1)
add_test(NAME fault/ckpt_kill/np2 COMMAND fault_ckpt_kill matrix 2 3 ${mpirun} -n 2)
set_tests_properties(fault/ckpt_kill/np1 fault/ckpt_kill/np2 PROPERTIES LABELS fault TIMEOUT 300)

# A rank that dies while others wait for it in shared memory.
add_executable(fault_shm_peer fault/shm_peer.c)
target_link_libraries(fault_shm_peer PRIVATE helix_static)
add_test(NAME fault/shm_peer COMMAND fault_shm_peer)
set_tests_properties(fault/shm_peer PROPERTIES LABELS fault TIMEOUT 60)
