# SPDX-License-Identifier: Apache-2.0
include(CMakePackageConfigHelpers)
install(TARGETS cardea EXPORT cardea-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(TARGET cardea-run)
  install(TARGETS cardea-run RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET cardea-doctor)
  install(TARGETS cardea-doctor cardea-command RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(TARGET cardea-trace)
  install(TARGETS cardea-trace RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
install(DIRECTORY include/cardea DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT cardea-targets NAMESPACE cardea:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cardea)
configure_package_config_file(cmake/cardea-config.cmake.in ${CMAKE_BINARY_DIR}/cardea-config.cmake
  INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cardea)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/cardea-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/cardea-config.cmake ${CMAKE_BINARY_DIR}/cardea-config-version.cmake
  DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/cardea)
# The prefix is where the file lies, so that an installed tree may be moved.
file(RELATIVE_PATH CARDEA_PC_TO_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/cardea.pc.in ${CMAKE_BINARY_DIR}/cardea.pc @ONLY)
install(FILES ${CMAKE_BINARY_DIR}/cardea.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
