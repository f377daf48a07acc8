include(GNUInstallDirs)
install(TARGETS helix RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS helix_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS helix_static ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(folder core dist io launch backends)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/helix
          FILES_MATCHING PATTERN "*.h" PATTERN "*_impl.h" EXCLUDE PATTERN "ops.def" PATTERN "cmake" EXCLUDE)
endforeach()
