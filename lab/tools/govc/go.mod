module platform.lab/tools/govc

go 1.26
