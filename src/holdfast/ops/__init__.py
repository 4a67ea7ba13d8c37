"""Operations of ours as torch operations, with their kernels."""
