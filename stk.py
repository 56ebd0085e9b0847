import sys,re
sys.path.insert(0,'/work/main/tests'); sys.path.insert(0,'/work/main')
from kernels.harness import compile_kernels
from kernels.window import fma_loops
d=dict(x.split('=',1) for x in sys.argv[2:])
for isa in ['x86_64_v3','icelake_server','aarch64']:
    print(isa,[n for n,l in fma_loops(compile_kernels(sys.argv[1],isa=isa,defines=d,kind='s').read_text()) if re.search(r"%[er][sb]p|\[(sp|x29)", l)])
