# `cmake --install build/release --prefix DIR`: program, libraries, headers, helix.pc.
install(TARGETS helix RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(TARGETS helix_shared LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
if(TARGET helix_cuda)
  install(TARGETS helix_cuda LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
endif()
install(TARGETS helix_static ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(folder core dist io launch backends)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/${folder} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/helix
          FILES_MATCHING PATTERN "*.h" PATTERN "ops.def" PATTERN "*_impl.h" EXCLUDE PATTERN "kernels" EXCLUDE PATTERN "cmake" EXCLUDE)
endforeach()
# made at install time, because only then the prefix is known
install(CODE "
  set(CMAKE_INSTALL_LIBDIR \"${CMAKE_INSTALL_LIBDIR}\")
  set(CMAKE_INSTALL_INCLUDEDIR \"${CMAKE_INSTALL_INCLUDEDIR}\")
  set(PROJECT_VERSION \"${PROJECT_VERSION}\")
  configure_file(\"${PROJECT_SOURCE_DIR}/launch/cmake/helix.pc.in\"
                 \"\${CMAKE_INSTALL_PREFIX}/\${CMAKE_INSTALL_LIBDIR}/pkgconfig/helix.pc\" @ONLY)")
