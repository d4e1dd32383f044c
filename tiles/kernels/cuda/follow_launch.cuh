// Programmatic dependent launch (PTX ISA, griddepcontrol), of kernels that are launched as `dependent`.

// Until here the launch before may still be ending: nothing but what is this CTA's own may have been
// touched.  From here on its writes are seen, and the launch after may begin likewise.
__device__ __forceinline__ void follow_launch() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}
