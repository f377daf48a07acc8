foreach(f malloc calloc realloc aligned_alloc)
  target_link_options(unit_steady_state PRIVATE -Wl,--wrap=${f})
endforeach()
