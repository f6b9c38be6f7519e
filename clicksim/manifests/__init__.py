"""Exports of a catalog in the forms that trainers, challenges and archives read.

select                  which cases, prompts and folds, with their licences
write_nnunet            nnU-Net v2 dataset
write_monai             MONAI datalist
write_grand_challenge   archive items of Grand Challenge
write_croissant         Croissant JSON-LD with the tables
write_huggingface       niftifolder of Hugging Face
write_csv               plain tables
check_manifest          an export held against itself and against the catalog
"""

from clicksim.manifests.croissant import write_croissant
from clicksim.manifests.csv_export import write_csv
from clicksim.manifests.folder import Written
from clicksim.manifests.grand_challenge import write_grand_challenge
from clicksim.manifests.huggingface import write_huggingface
from clicksim.manifests.manifest_checks import check_manifest, read_record
from clicksim.manifests.monai_datalist import write_monai
from clicksim.manifests.nnunet import write_nnunet
from clicksim.manifests.selection import Export, select

__all__ = [
    "Export",
    "Written",
    "check_manifest",
    "read_record",
    "select",
    "write_croissant",
    "write_csv",
    "write_grand_challenge",
    "write_huggingface",
    "write_monai",
    "write_nnunet",
]
