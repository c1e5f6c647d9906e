# What mclust chooses: R, with the package mclust.   Rscript choices.R SET.csv ... > choices.json
# The tables are those of `python -m benchmarks choices --rows FOLDER`. The best BIC of all fourteen structures, and of
# VVV alone, for K = 1 to 9.
suppressMessages(library(mclust))
lines <- sapply(commandArgs(TRUE), function(file) {
  rows <- as.matrix(read.csv(file))
  found <- mclustBIC(rows, G = 1:9, verbose = FALSE)
  best <- summary(found, rows)
  sprintf('  "%s": {"best": "%s", "K": %d, "bic": %.3f, "VVV": %d, "bic of VVV": %.3f}', sub(".csv", "", basename(file)),
          best$modelName, best$G, best$bic, which.max(found[, "VVV"]), max(found[, "VVV"], na.rm = TRUE))
})
cat("{\n", paste(lines, collapse = ",\n"), "\n}\n", sep = "")
