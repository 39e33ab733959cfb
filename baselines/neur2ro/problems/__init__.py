"""The problems that come with the package: knapsack, capital budgeting (with and without loans), memory mapping."""
