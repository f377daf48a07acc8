# The battery is shared by the programs of this folder. Those that run kernels do so again in other surroundings:
# on asynchronous streams, which finds code that relies on work being done when a call returns; and with each set of
# kernels and each matrix product that the cpu backend chooses from.
function(helix_conformance_again name label variable value)
  add_test(NAME conformance/${name}/${label} COMMAND conformance_${name} -j1)
  set_tests_properties(conformance/${name}/${label} PROPERTIES LABELS conformance TIMEOUT 600
                       ENVIRONMENT ${variable}=${value} SKIP_REGULAR_EXPRESSION "this CPU does not have it")
endfunction()

foreach(name ops dtypes gradients draws figures functions errors meta teeth attention parts add_norm)
  target_sources(conformance_${name} PRIVATE conformance/battery.c conformance/cases.c)
endforeach()
foreach(name gradients draws)
  target_sources(conformance_${name} PRIVATE conformance/gradient.c)
endforeach()
foreach(name ops dtypes gradients draws figures functions errors parts add_norm)
  helix_conformance_again(${name} async HELIX_STREAM async)
endforeach()
foreach(isa ${isas})
  helix_conformance_again(ops ${isa} HELIX_CPU_ISA ${isa})
  helix_conformance_again(figures ${isa} HELIX_CPU_ISA ${isa})
  helix_conformance_again(functions ${isa} HELIX_CPU_ISA ${isa})
  helix_conformance_again(add_norm ${isa} HELIX_CPU_ISA ${isa})
endforeach()
helix_conformance_again(ops openblas HELIX_GEMM openblas)
