# Refuses options that let the compiler change results: the same bits everywhere would be lost
# without a word. They come from the environment (CXXFLAGS, LDFLAGS, CXX), from the command line, a
# toolchain file, or a build type.
function(fusestep_refuse_inexact_flags)
  set(inexact
    "-Ofast" "-ffast-math" "-funsafe-math-optimizations" "-fassociative-math" "-freciprocal-math"
    "-ffinite-math-only" "-fno-honor-nans" "-fno-honor-infinities" "-fno-signed-zeros"
    "-fapprox-func" "-fsingle-precision-constant" "-mrecip[^ ;]*" "-mdaz-ftz"
    "-fdenormal-fp-math[^ ;]*" "-ffp-contract=fast[^ ;]*" "-ffp-model=(fast|aggressive)[^ ;]*"
    "-fp-model[= ]fast[^ ;]*" "-fimf-[^ ;]*" "-no-prec-(div|sqrt)" "[/-]fp:fast[^ ;]*")
  list(JOIN inexact "|" inexact)
  string(TOUPPER "${CMAKE_BUILD_TYPE}" type)
  get_directory_property(options COMPILE_OPTIONS)
  get_directory_property(link_options LINK_OPTIONS)
  set(places
    CMAKE_CXX_COMPILER_ARG1 CMAKE_CXX_FLAGS CMAKE_CXX_FLAGS_${type} CMAKE_MODULE_LINKER_FLAGS
    CMAKE_MODULE_LINKER_FLAGS_${type} options link_options)
  foreach(configuration IN LISTS CMAKE_CONFIGURATION_TYPES)
    string(TOUPPER "${configuration}" type)
    list(APPEND places CMAKE_CXX_FLAGS_${type} CMAKE_MODULE_LINKER_FLAGS_${type})
  endforeach()
  foreach(place IN LISTS places)
    if(" ${${place}} " MATCHES "[ ;:,](${inexact})[ ;>,]")
      message(FATAL_ERROR
        "fusestep promises the same bits everywhere, and ${CMAKE_MATCH_1} lets the compiler change "
        "them. Remove it from the flags (CXXFLAGS, LDFLAGS, ${place}): the kernels are fast without.")
    endif()
  endforeach()
endfunction()
