•š—ìãŸçË$f47ac10b-58cc-4372-a567-0e02b2c3d479B0J
app_nameordersJ

deploymentcfJ-
index$2f1c9d3a-7e0b-4c58-9a61-5d8f3b7e2c14J
ip
10.0.16.25J
job
diego-cellJ
originrepJ2

process_id$9b2e6c41-0d5f-4a8e-b3c7-61f20a9d8e57J
source_typeAPP/PROC/WEB"ä
á{"level":"info","logger":"o.c.orders.OrderController","msg":"GET /api/v1/orders completed","status":200,"duration_ms":12,"bytes":5120,"trace":"80f198ee56343ba864fe8b2a57d3eff7c1a9e0d25b64f3877d0e4b9"} seq=00000000000000000000