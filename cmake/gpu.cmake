# GPU kernels: every .cu file becomes machine code for the named architecture, and all of it one generated file of the
# program. Without nvcc there are none, and the program says so when it is asked for a GPU.

option(WEIR_GPU "Build GPU kernels when nvcc is found" ON)
set(WEIR_NVCC_FLAGS "" CACHE STRING "List of further flags for nvcc, e.g. -DWEIR_EVERY_LANE_ARRIVES (device/async.h)")
if(WEIR_GPU)
  find_program(WEIR_NVCC nvcc HINTS /usr/local/cuda/bin)
endif()
if(WEIR_NVCC)
  execute_process(COMMAND "${WEIR_NVCC}" --version OUTPUT_VARIABLE WEIR_NVCC_TEXT)
  string(REGEX MATCH "release ([0-9]+)" WEIR_NVCC_RELEASE "${WEIR_NVCC_TEXT}")
  if(NOT WEIR_NVCC_RELEASE OR CMAKE_MATCH_1 LESS 13)
    message(STATUS "${WEIR_NVCC_RELEASE} of nvcc is too old for the GPU kernels (13 is needed): building without them")
    unset(WEIR_NVCC CACHE)
  endif()
endif()
if(WEIR_NVCC)
  file(REAL_PATH "${WEIR_NVCC}" WEIR_NVCC_REAL)
  get_filename_component(WEIR_CUDA_ROOT "${WEIR_NVCC_REAL}" DIRECTORY)
  find_path(WEIR_CUDA_INCLUDE cuda.h HINTS "${WEIR_CUDA_ROOT}/../include" "${WEIR_CUDA_ROOT}/../targets/x86_64-linux/include")
  message(STATUS "GPU kernels: ${WEIR_NVCC}")
endif()

# weir_gpu_images(OUT_VARIABLE FUNCTION file.cu...): generated sources that define weir::FUNCTION(), the files' images.
function(weir_gpu_images out function)
  set(architecture 90)
  set(table "")
  set(blobs "")
  set(outputs "")
  set(declarations "")
  foreach(source IN LISTS ARGN)
    get_filename_component(name "${source}" NAME_WE)
    set(image "${CMAKE_CURRENT_BINARY_DIR}/${name}.cubin")
    # sm_90a: the tensor cores' and copy engine's own instructions. -lineinfo costs nothing at run time.
    add_custom_command(
      OUTPUT "${image}"
      COMMAND "${WEIR_NVCC}" -cubin -std=c++20 --expt-relaxed-constexpr -O3 -lineinfo ${WEIR_NVCC_FLAGS} -gencode=arch=compute_${architecture}a,code=sm_${architecture}a
              -I "${PROJECT_SOURCE_DIR}/src" -MD -MF "${image}.d" -MT "${image}" -Werror all-warnings
              "${CMAKE_CURRENT_SOURCE_DIR}/${source}" -o "${image}"
      DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/${source}"
      DEPFILE "${image}.d"
      COMMENT "kernels of ${source}"
      VERBATIM)
    list(APPEND outputs "${image}")
    string(APPEND blobs "    .global weir_image_${name}\n    .global weir_image_${name}_end\n    .balign 64\n"
                        "weir_image_${name}:\n    .incbin \"${image}\"\nweir_image_${name}_end:\n")
    string(APPEND declarations "extern const std::byte weir_image_${name}[];\nextern const std::byte weir_image_${name}_end[];\n")
    string(APPEND table "      {\"${source}\", ${architecture}, weir_image_${name}, weir_image_${name}_end - weir_image_${name}},\n")
  endforeach()
  set(assembly "${CMAKE_CURRENT_BINARY_DIR}/${function}.S")
  set(code "${CMAKE_CURRENT_BINARY_DIR}/${function}.cpp")
  file(CONFIGURE OUTPUT "${assembly}" CONTENT "    .section .rodata\n${blobs}    .section .note.GNU-stack,\"\",@progbits\n" @ONLY)
  file(CONFIGURE OUTPUT "${code}" CONTENT
       "#include \"ops/gpu/gpu.h\"\n\nextern \"C\" {\n${declarations}}\n\nnamespace weir {\n\nstd::span<const device::KernelImage> ${function}() {\n  static const device::KernelImage images[] = {\n${table}  };\n  return images;\n}\n\n}  // namespace weir\n" @ONLY)
  set_source_files_properties("${assembly}" PROPERTIES OBJECT_DEPENDS "${outputs}" LANGUAGE ASM)
  set(${out} "${assembly}" "${code}" PARENT_SCOPE)
endfunction()
