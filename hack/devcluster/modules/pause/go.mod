module finetune.dev/devcluster/pause

go 1.25.0
