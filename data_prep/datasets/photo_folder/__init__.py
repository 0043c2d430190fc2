"""Any folder of photographs."""
