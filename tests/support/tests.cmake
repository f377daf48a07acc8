add_test(NAME unit/tree COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/support/check_tree.sh ${PROJECT_SOURCE_DIR})
set_tests_properties(unit/tree PROPERTIES LABELS unit)
