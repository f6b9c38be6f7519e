"""Code that several sources share: tables, file trees, NIfTI images, measurements, registration and resampling."""
