module platform.lab/tools/podinfo

go 1.26
