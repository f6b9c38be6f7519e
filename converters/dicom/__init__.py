"""Reading DICOM: series, geometry, pixels, SEG and RTSTRUCT."""
