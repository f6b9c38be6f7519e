"""What several sources use: tables, file trees, NIfTI images, measurements, registration and resampling."""
