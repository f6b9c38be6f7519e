"""Read DICOM: series, geometry, pixels, SEG and RTSTRUCT."""
