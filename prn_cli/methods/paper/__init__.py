"""`paper`: PatchRefineNet as published."""
